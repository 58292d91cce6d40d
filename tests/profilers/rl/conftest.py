"""A two-layer Llama with a byte-level tokenizer, as a folder that transformers loads."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reclm.llm.models import LanguageModel, find_model
from reclm.profilers.rl.policy import Policy
from reclm.profilers.tuning.adapter import LoraOptions

sys.path.insert(0, str(Path(__file__).parents[2] / "text"))
sys.path.insert(0, str(Path(__file__).parent))

from tiny import TEMPLATE, tiny_tokenizer  # pyright: ignore[reportMissingImports]


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> LanguageModel:
    """Random weights; the output layer, which has no adapter, lets one token of 303 come near to probability 1."""
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=303,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(),
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return find_model(str(folder))


@pytest.fixture
def network(llama):
    return AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32).eval()


@pytest.fixture
def policy(network) -> Policy:
    return Policy.adapt(network, LoraOptions(r=4, alpha=8))


@pytest.fixture
def moved(policy) -> Policy:
    """A policy that has left its reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in [*policy.network.parameters(), *policy.value_head.parameters()]:
            if one.requires_grad:
                one.add_(torch.randn(one.shape, generator=generator), alpha=0.1)
    return policy
