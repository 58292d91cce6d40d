"""Targets of the room of language models: model folders, GGUF files, adapters and the answers of servers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .artefacts import tensors_of


def _cache(folder: Path) -> None:
    """Let copies of GGUF files go with the case."""
    os.environ["RECLM_CACHE"] = str(folder.parent / "cache")


def write_language_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.text.tiny import TEMPLATE, tiny_tokenizer

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=400, max_position_embeddings=64, **sizes)).save_pretrained(
        folder / "tiny"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "tiny")


def _answers(generator: Any) -> list[str]:
    from reclm.llm.chat import Chat, Message, SamplingParams

    chats = {"a": Chat((Message("user", "hello"),))}
    return [answer.text for answer in generator.generate(chats, SamplingParams(max_new_tokens=1))]


def read_language_model(folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    from transformers import logging

    from reclm.llm.engines.transformers import TransformersGenerator
    from reclm.llm.models import find_model

    logging.set_verbosity(50)  # none
    generator = TransformersGenerator(find_model(str(folder / "tiny")), precision="f32")
    answers = _answers(generator)
    return answers, {name: tensor.numpy() for name, tensor in generator.network.state_dict().items()}


def judge_language_model(folder: Path, value: tuple[list[str], dict[str, np.ndarray]], sound: Any) -> None:
    """There is one answer, by the weights that lie in the file, read by hand."""
    answers, weights = value
    assert len(answers) == 1
    stored = tensors_of((folder / "tiny" / "model.safetensors").read_bytes())
    for name, tensor in weights.items():
        if name in stored:
            wanted = stored[name].astype(np.float32)
            assert np.array_equal(tensor, wanted, equal_nan=True), f"other weights than the file has: {name}"
        else:
            assert name == "lm_head.weight", f"weights from nowhere: {name}"


def write_gguf(folder: Path) -> None:
    from tests.text.tiny import write_tiny_gguf

    write_tiny_gguf(folder / "tiny.gguf")


def read_gguf(folder: Path) -> tuple[list[str], int]:
    """Return the tokens of the vocabulary, in order, and the context window."""
    from reclm.llm.models import context_length, find_model, load_tokenizer

    _cache(folder)
    model = find_model(str(folder / "tiny.gguf"))
    tokenizer = load_tokenizer(model)
    return tokenizer.convert_ids_to_tokens(range(len(tokenizer))), context_length(model)


def judge_gguf(folder: Path, value: tuple[list[str], int], sound: Any) -> None:
    """Vocabulary and context are those that the package gguf reads."""
    fields = gguf.GGUFReader(folder / "tiny.gguf").fields
    tokens, length = value
    wanted = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[: len(wanted)] == wanted, "another vocabulary than the file has"
    context = fields["llama.context_length"].contents() if "llama.context_length" in fields else None
    assert context in (None, length) or context <= 0, f"a context of {length}, the file says {context}"


def read_gguf_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the matrices of the copy that transformers runs."""
    from reclm.llm.models import find_model, transformers_folder

    _cache(folder)
    place = transformers_folder(find_model(str(folder / "tiny.gguf")), weights=True)
    return tensors_of((place / "model.safetensors").read_bytes())


def judge_gguf_weights(folder: Path, value: dict[str, np.ndarray], sound: dict[str, np.ndarray]) -> None:
    """The embeddings are those that the package gguf reads, and no matrix is missing."""
    assert value.keys() == sound.keys(), f"other weights: {value.keys() ^ sound.keys()}"
    tensors = {one.name: one.data for one in gguf.GGUFReader(folder / "tiny.gguf").tensors}
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
    }
    for theirs, ours in pairs.items():
        wanted = tensors[theirs].astype(np.float32)
        same = np.array_equal(value[ours].astype(np.float32), wanted, equal_nan=True)
        assert same, f"other weights than the file has: {ours}"


def write_adapter(folder: Path) -> None:
    """Write a language model, and an adapter of it that changes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    write_language_model(folder)
    network: Any = AutoModelForCausalLM.from_pretrained(folder / "tiny")
    adapted = get_peft_model(network, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(1)
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            weights.data = torch.randn(weights.shape, generator=generator)
    adapted.save_pretrained(str(folder / "adapter"))
    shutil.rmtree(folder / "adapter" / "README.md", ignore_errors=True)


def read_adapter(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights of the model with the adapter merged, as a tuned profiler writes with them."""
    from reclm.llm.models import find_model
    from reclm.profilers.tuning.adapter import with_adapter
    from reclm.profilers.tuning.training import load_network

    network = load_network(find_model(str(folder / "tiny")), device="cpu")
    network = with_adapter(network, folder / "adapter").merge_and_unload()
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def judge_adapter(folder: Path, value: dict[str, np.ndarray], sound: Any) -> None:
    """The merged weights are those of the model plus scaled products of the adapter's matrices, read by hand."""
    about = json.loads((folder / "adapter" / "adapter_config.json").read_bytes())
    adapter = tensors_of((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    model = tensors_of((folder / "tiny" / "model.safetensors").read_bytes())
    if about.get("use_rslora") or about.get("alpha_pattern") or about.get("rank_pattern"):
        return  # options of PEFT that change the scale
    for name in ("q_proj", "v_proj"):
        place = f"model.layers.0.self_attn.{name}"
        down, up = (adapter[f"base_model.model.{place}.lora_{side}.weight"] for side in "AB")
        wanted = model[f"{place}.weight"] + about["lora_alpha"] / about["r"] * (up @ down)
        close = np.allclose(value[f"{place}.weight"], wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert close, f"{place} is not the model's with its adapter"


def write_answer(folder: Path) -> None:
    from tests.fake_server import PROFILE, completion

    (folder / "answer.json").write_text(json.dumps(completion(PROFILE)[1]))


def read_answer(folder: Path) -> Any:
    from reclm.llm.engines.server import ServerGenerator
    from tests.fake_server import KEY, fake_server

    body = (folder / "answer.json").read_bytes()
    with fake_server() as server:
        server.reply = lambda request: (200, body, {})
        return _answers(ServerGenerator("teacher", server.url, KEY, retries=0, timeout=5))


def judge_answer(folder: Path, value: Any, sound: Any) -> None:
    (text,) = value
    body = json.loads((folder / "answer.json").read_bytes().decode("utf-8", "replace"))
    content = body["choices"][0]["message"]["content"]
    if isinstance(content, list):  # the parts of an answer
        content = "".join(part if isinstance(part, str) else part.get("text", "") for part in content)
    assert isinstance(content, str), f"an answer {text!r} where the content is {content!r}"
    assert text.strip(), "an empty answer"
    plain = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert text.replace("\ufffd", "?") in plain.replace("\ufffd", "?"), (
        f"{text!r} is not in the answer {content!r}"
    )
