import dataclasses
import shlex

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from reclm.data.dataset import ReadReport
from reclm.errors import BadInput
from reclm.profilers.reclm.report import Card, nameless, write_card

PARSER = MarkdownIt("gfm-like", {"linkify": False})
FORGED = "x |\n---\nlicense: mit\n---\n```\n# Results\n<b>y</b>"


@pytest.fixture
def card(comparison) -> Card:
    return Card(
        model="meta-llama/Llama-2-7b-chat-hf@01234567",
        dataset="mind-release",
        fingerprint="feedc0de",
        stages={"kd": {"learning_rate": 2e-4, "teacher": "/home/ann/data/users.csv"}, "ppo": {"steps": 100}},
        teacher={"user": ReadReport({"user": 1466}, {"2 identities instead of 3": 195})},
        comparisons=[comparison],
        remarks=["PPO ran away."],
        picture="curves.png",
    )


def body(text: str, kind: str) -> list[str]:
    return [one.content for one in PARSER.parse(text) if one.type == kind]


def test_the_hub_reads_it(card, tmp_path):
    path = write_card(tmp_path, card)
    saved = ModelCard.load(path)
    assert path.name == "README.md"
    assert saved.data.to_dict() == {
        "base_model": "meta-llama/Llama-2-7b-chat-hf",
        "datasets": ["mind-release"],
        "library_name": "peft",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["reclm", "recommender-systems", "user-profiles", "lora"],
    }
    assert str(saved) == path.read_text(encoding="utf-8")


def test_what_it_says(card, tmp_path):
    text = ModelCard.load(write_card(tmp_path, card)).text
    assert "| fingerprint | feedc0de |" in text
    assert "| teacher's user profiles | 1,466 |" in text
    assert "| left out: 2 identities instead of 3 | 195 |" in text
    assert "3 held-out users:\n\n|  | n | in format |" in text
    assert "- PPO ran away." in text
    assert "![curves](curves.png)" in text
    use, kd, ppo, where = body(text, "fence")
    assert use == "reclm profile --profiler reclm --adapter DIR --dataset mind-release\n"
    assert yaml.safe_load(kd) == {"learning_rate": 2e-4, "teacher": "users.csv"}
    assert yaml.safe_load(ppo) == {"steps": 100}
    assert "torch" in yaml.safe_load(where)  # of this machine


def test_it_replaces_the_card_that_peft_wrote(card, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n[More Information Needed]", encoding="utf-8")
    text = write_card(tmp_path, card).read_text(encoding="utf-8")
    assert "More Information Needed" not in text
    assert "license: unknown" in text


@pytest.mark.parametrize(
    ("model", "named", "expected"),
    [
        ("org/model@12345678", None, "org/model"),
        ("SmolLM2.Q4_1@12345678", None, None),
        ("SmolLM2.Q4_1@12345678", "HuggingFaceTB/SmolLM2", "HuggingFaceTB/SmolLM2"),
        ("model@12345678", "/home/ann/model", None),
        ("/home/ann/model", None, None),
    ],
)
def test_the_base_model_is_named_where_the_hub_has_it(card, tmp_path, model, named, expected):
    changed = dataclasses.replace(card, model=model, base_model=named)
    path = write_card(tmp_path, changed)
    assert ModelCard.load(path).data.get("base_model") == expected
    assert "/home" not in path.read_text(encoding="utf-8")


def test_text_that_comes_from_data_forges_nothing(card, tmp_path):
    forged = dataclasses.replace(
        card,
        model=FORGED,
        dataset=FORGED,
        fingerprint=FORGED,
        stages={FORGED: {FORGED: FORGED}},
        teacher={"user": ReadReport({"user": 1}, {FORGED: 1})},
        remarks=[FORGED],
    )
    path = write_card(tmp_path, forged)
    saved = ModelCard.load(path)
    assert saved.data.get("license") == "unknown"
    tokens = PARSER.parse(saved.text)
    headings = [tokens[at + 1].content for at, one in enumerate(tokens) if one.type == "heading_open"]
    assert [one.split()[0] for one in headings] == [
        *("RecLM", "Use", "Training", "Quality", "Limits", "Settings", "x", "Environment")
    ]
    assert "html_block" not in {one.type for one in tokens}
    use, settings, _ = body(saved.text, "fence")
    assert shlex.split(use)[-1] == " ".join(FORGED.split())
    assert yaml.safe_load(settings) == {FORGED: FORGED}


def test_without_measurements(card, tmp_path):
    bare = Card("m@1", "d", "f", stages={"kd": {}})
    text = write_card(tmp_path, bare).read_text(encoding="utf-8")
    assert "Quality by stage" not in text


def test_of_a_path_only_its_end_is_told():
    given = {
        "a": "/x/y.csv",
        "b": ["~/z", {"c": "C:\\u\\v.txt"}],
        "d": 1.5,
        "e": None,
        "f": True,
        "g": "org/name",
    }
    assert nameless(given) == {
        "a": "y.csv",
        "b": ["z", {"c": "v.txt"}],
        "d": 1.5,
        "e": None,
        "f": True,
        "g": "org/name",
    }


def test_a_folder_that_cannot_be_written(card, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match=r"README\.md"):
        write_card(tmp_path / "file", card)
