"""Texts become the model's vectors, each once, whatever the order and the batches."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.errors import NotFound
from reclm.folders import Workspace
from reclm.profiles.matrix import item_text_features
from reclm.text.encoder import TextEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "noir", "jazz", "opera", "films", "and"]
TEXTS = ["noir films", "jazz", "noir films and opera and jazz", "jazz", "", "opera"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer and a window of 6 tokens, with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    bert, folder = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder") / "tiny"
    vocabulary = bert / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(bert)
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=6)
    SentenceTransformer(modules=[transformer, Pooling(8)], device="cpu").save(str(folder))
    return folder


@pytest.fixture
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder(str(folder), device="cpu")


def test_vectors_are_the_models_own_in_the_order_given(encoder: TextEncoder) -> None:
    vectors = encoder.encode(TEXTS, batch_size=2)
    alone = np.stack([encoder.model.encode(text) for text in TEXTS])
    assert vectors.dtype == np.float32
    assert vectors.shape == (6, 8)
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3), "else this shows nothing"
    assert encoder.dim == 8
    assert encoder.encode([]).shape == (0, 8)


def test_equal_texts_are_encoded_once_longest_first(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, steps, encode = [], [], encoder.model.encode

    def noted(texts: list[str], **options: Any) -> np.ndarray:
        batches.append(texts)
        return encode(texts, **options)

    monkeypatch.setattr(encoder.model, "encode", noted)
    encoder.encode(TEXTS, batch_size=2, progress=steps.append)
    assert batches == [["noir films and opera and jazz", "noir films"], ["opera", "jazz"], [""]]
    assert steps == [2, 3, 1], "jazz stands there twice"


def test_texts_beyond_the_window_are_counted(encoder: TextEncoder) -> None:
    # with [CLS] and [SEP]: 4, 3, 8, 3, 2, 3 tokens for a window of 6
    assert encoder.truncated(TEXTS) == pytest.approx(1 / 6)
    assert encoder.truncated([]) == 0.0


def test_a_directory_is_named_by_its_weights(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "tiny")
    assert TextEncoder(str(copy)).name == TextEncoder(str(folder)).name
    assert TextEncoder(str(copy)).name.startswith("tiny@")
    weights = next(copy.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert TextEncoder(str(copy)).name != TextEncoder(str(folder)).name


def test_nothing_is_loaded_before_the_first_text(folder: Path) -> None:
    assert "model" not in vars(TextEncoder(str(folder)))
    assert TextEncoder().name == "all-MiniLM-L6-v2"


def test_what_is_no_encoder_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFound, match=r"has no weights \(\*\.safetensors"):
        TextEncoder(str(tmp_path))
    with pytest.raises(NotFound, match=r"no encoder at \./nowhere: there is no such directory"):
        TextEncoder("./nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(NotFound, match=r"^cannot load encoder [^\n]*$"):
        TextEncoder(str(tmp_path)).encode(["jazz"])


def test_a_name_that_the_hub_cannot_give_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def out_of_reach(self: object, name: str) -> None:
        raise ConnectionError(f"{name}: name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", out_of_reach)
    with pytest.raises(
        NotFound, match="cannot load encoder 'nobody/nothing': nobody/nothing: name or service"
    ):
        TextEncoder("nobody/nothing")


def view_of(titles: list[str]) -> TrainingView:
    return TrainingView(
        "toy",
        IdMap(["u"], "user"),
        IdMap([f"i{row}" for row in range(len(titles))], "item"),
        Interactions.empty(),
        pa.table({"title": titles, "tag": ["noir"] * len(titles)}),
        "{title}[. {tag}]",
        "f00d",
    )


def test_item_text_features_are_kept(encoder: TextEncoder, folder: Path, tmp_path: Path) -> None:
    view, workspace = view_of(["jazz", "opera", "jazz"]), Workspace.at(tmp_path)
    features = item_text_features(view, encoder, workspace, progress=False)
    np.testing.assert_allclose(features[0], encoder.model.encode("jazz. noir"), atol=1e-6)
    assert (features[0] == features[2]).all()
    again = TextEncoder(str(folder), device="cpu")
    assert (item_text_features(view, again, workspace, progress=False) == features).all()
    assert "model" not in vars(again)


def test_items_without_text_are_zero(encoder: TextEncoder, tmp_path: Path) -> None:
    view = view_of(["jazz", "opera"])
    item_text_features(view, encoder, Workspace.at(tmp_path), progress=False)
    silent = TrainingView(**(vars(view) | {"item_text": pa.table({"title": ["jazz", ""], "tag": ["", ""]})}))
    features = item_text_features(silent, encoder, Workspace.at(tmp_path), progress=False)
    np.testing.assert_allclose(features[0], encoder.model.encode("jazz"), atol=1e-6)
    assert not features[1].any()


@pytest.mark.real_model
def test_the_embedded_encoder_knows_what_is_alike() -> None:
    noir, crime, cooking = TextEncoder().encode(["a film noir", "a dark crime movie", "how to bake bread"])
    assert np.linalg.norm(noir) == pytest.approx(1, abs=1e-5)
    assert noir @ crime > noir @ cooking + 0.2


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("1_Pooling/config.json", ('"pooling_mode": "mean"', '"pooling_mode": "cls"')),
        ("config_sentence_transformers.json", ('"default_prompt_name": null', '"default_prompt_name": "q"')),
        ("sentence_bert_config.json", ("}", " }")),
        ("tokenizer.json", ('"noir"', '"nair"')),
        ("modules.json", ("]", " ]")),
    ],
)
def test_fault_6_another_pooling_prompt_length_or_tokenizer_is_another_encoder(
    folder: Path, tmp_path: Path, file: str, change: tuple[str, str]
) -> None:
    other = shutil.copytree(folder, tmp_path / folder.name)
    (other / "README.md").write_text("Another text.")
    assert TextEncoder(str(other)).name == TextEncoder(str(folder)).name
    before = (other / file).read_text()
    (other / file).write_text(before.replace(*change))
    assert (other / file).read_text() != before, "else this shows nothing"
    assert TextEncoder(str(other)).name != TextEncoder(str(folder)).name


def test_fault_12_any_text_can_be_encoded(encoder: TextEncoder) -> None:
    vectors = encoder.encode(["noir \ud83d", "noir \ufffd", "\udce9", ""])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert encoder.tokens(["\udce9"]) == encoder.tokens(["\ufffd"])
