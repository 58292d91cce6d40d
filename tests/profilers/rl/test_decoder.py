"""The two parts of a model against the whole of it, for the architectures of Gemma, Llama, Qwen and SmolLM."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft.tuners.lora import LoraLayer
from toy_policy import PROMPTS, count_e  # pyright: ignore[reportMissingImports]
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from reclm.llm.chat import SamplingParams
from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.rl.decoder import SplitDecoder
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.rl.rollout import PolicySampler, merged
from reclm.profilers.tuning.adapter import LoraOptions

# the vocabulary of the fixture llama, whose tokenizer all of them use
SIZE = {
    "vocab_size": 303,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
SLIDING = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
CONFIGS = {
    "gemma": GemmaConfig(**SIZE),
    # windows shorter than a prompt and its answer
    "gemma2": Gemma2Config(**SIZE, query_pre_attn_scalar=16, sliding_window=4, layer_types=SLIDING),
    "gemma3": Gemma3TextConfig(**SIZE, query_pre_attn_scalar=16, sliding_window=4, layer_types=SLIDING),
    "llama": LlamaConfig(**SIZE),
    "qwen2": Qwen2Config(**SIZE),
    "qwen3": Qwen3Config(**SIZE),
    "smollm3": SmolLM3Config(**SIZE, no_rope_layers=[1, 0, 1, 0]),
}
WHOLE = LoraOptions(train="last_layers", layers=2)
SAMPLED = SamplingParams(max_new_tokens=10, temperature=1.0)
every = pytest.mark.parametrize("name", CONFIGS)


def made(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def move(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in policy.network.parameters():
            if one.requires_grad:
                one.add_(torch.randn(one.shape, generator=generator), alpha=0.05)


def rolled(policy: Policy, llama, samples: int = 3):
    prompts = [prompt for prompt in PROMPTS[:4] for _ in range(samples)]
    return PolicySampler(policy.decoder, llama).roll_out(prompts, SAMPLED, range(len(prompts)), samples)


def dense(network, rollout) -> torch.Tensor:
    attention = rollout.attention.long()
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    logits = network(
        input_ids=rollout.ids, attention_mask=attention, position_ids=positions, use_cache=False
    ).logits
    chosen = logits[:, :-1].float().log_softmax(-1).gather(-1, rollout.ids[:, 1:, None]).squeeze(-1)
    return chosen[:, -rollout.answers.shape[1] :].masked_fill(~rollout.answers, 0)


def scored(policy: Policy, rollout, cached: bool = True):
    states = rollout.states(torch.arange(len(rollout.ids) // rollout.samples)) if cached else None
    return policy(rollout.ids, rollout.attention, rollout.answers, samples=rollout.samples, states=states)


@every
def test_cached_and_shared_is_the_uncached_unshared_computation(name, llama):
    policy = Policy.adapt(made(name), WHOLE, precision="f32")
    move(policy)
    assert policy.decoder.first == 2
    rollout = rolled(policy, llama)
    assert rollout.prompt_states is not None
    assert rollout.prompt_states.shape[0] == 4
    other = deepcopy(policy)
    wanted = dense(other.base, rollout)
    found = scored(policy, rollout).logprobs
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(scored(policy, rollout, cached=False).logprobs, found, rtol=1e-5, atol=2e-5)
    with policy.reference(), other.reference(), torch.no_grad():
        reference = dense(other.base, rollout)
        torch.testing.assert_close(scored(policy, rollout).logprobs, reference, rtol=1e-5, atol=2e-5)
    assert (reference - wanted).abs().max() > 1e-2
    found.square().sum().backward()
    wanted.square().sum().backward()
    for (key, one), grad in zip(policy.network.named_parameters(), other.network.parameters(), strict=True):
        if one.requires_grad:
            error = 1e-4 * float(grad.grad.abs().max())
            torch.testing.assert_close(one.grad, grad.grad, rtol=1e-3, atol=error, msg=key)


@every
def test_frozen_layers_in_bf16(name, llama):
    policy = Policy.adapt(made(name), WHOLE, precision="bf16")
    first = rolled(policy, llama)
    kinds = {one.dtype for one in policy.network.parameters() if one.requires_grad}
    assert kinds == {torch.float32}
    assert first.prompt_states is not None
    assert first.prompt_states.dtype == policy.base.get_input_embeddings().weight.dtype == torch.bfloat16
    with torch.no_grad():
        ours = scored(policy, first).logprobs
        with policy.reference():
            assert torch.equal(scored(policy, first).logprobs, ours)
    move(policy)
    rollout, whole = rolled(policy, llama), Policy.adapt(made(name), WHOLE, precision="f32")
    move(whole)
    ours = scored(policy, rollout)
    difference = (ours.logprobs - dense(whole.base, rollout).detach())[rollout.answers]
    assert difference.abs().mean() < 0.1
    ours.logprobs.sum().backward()
    assert all(bool(one.grad.any()) for one in policy.network.parameters() if one.requires_grad)


@every
@pytest.mark.parametrize("options", [WHOLE, LoraOptions(r=2, alpha=4), LoraOptions(r=2, alpha=4, layers=1)])
def test_greedy_answers_are_those_of_generate(name, llama, options):
    policy = Policy.adapt(made(name), options, precision="f32")
    move(policy)
    params = SamplingParams(max_new_tokens=8)
    rollout = PolicySampler(policy.decoder, llama).roll_out(PROMPTS, params, [0] * 6)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        alone = policy.base.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
        mask = rollout.answers[row]
        assert rollout.ids[row, -len(mask) :][mask].tolist() == alone[0, len(prompt) :].tolist()


def test_the_frozen_part_runs_once_a_token(llama, monkeypatch):
    policy, config = (
        Policy.adapt(made("llama"), WHOLE),
        RLSOConfig(
            steps=1, samples=3, batch_size=4, minibatch_size=2, epochs=3, max_new_tokens=8, learning_rate=1e-3
        ),
    )
    rlso = RLSO(policy, PolicySampler(policy.decoder, llama), PROMPTS, count_e, config, Accelerator(cpu=True))
    lower, read = policy.decoder.lower, []
    monkeypatch.setattr(
        policy.decoder, "lower", lambda ids, *more: read.append(ids.shape) or lower(ids, *more)
    )
    metrics = rlso.train_step()
    assert metrics["updates"] == 6
    # four prompts, then a token of the answers at a time, and never again
    assert len(read[0]) == 2
    assert read[0][0] == 4
    assert all(length == 1 for _, length in read[1:])
    assert len(read) <= 8


def test_parts_that_cannot_run_apart_run_together(llama):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=303, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
        )
        network = AutoModelForCausalLM.from_config(config).eval()
    policy = Policy.adapt(network, LoraOptions(r=2, layers=1))
    assert policy.decoder.first == 0
    move(policy)
    rollout = rolled(policy, llama)
    assert rollout.prompt_states is None
    torch.testing.assert_close(
        scored(policy, rollout).logprobs, dense(policy.base, rollout), rtol=1e-5, atol=2e-5
    )


def test_the_adapter_of_the_last_layers_leaves_the_others_frozen():
    decoder = Policy.adapt(made("llama"), LoraOptions(r=2, layers=1)).decoder
    assert decoder.first == 3
    assert SplitDecoder(made("llama")).first == 0


def test_merged_weights_are_the_same_tensors_behind(llama):
    policy = Policy.adapt(made("llama"), LoraOptions(r=2, alpha=4))
    move(policy)
    ids = SimpleNamespace(input_ids=torch.tensor([PROMPTS[2]]))
    layers: list[Any] = [one for one in policy.network.modules() if isinstance(one, LoraLayer)]
    before = [one.get_base_layer().weight.clone() for one in layers]
    with torch.no_grad():
        unmerged = policy.base(**vars(ids)).logits
        with merged(policy.base):
            assert all(one.merged for one in layers)
            torch.testing.assert_close(policy.base(**vars(ids)).logits, unmerged, rtol=1e-5, atol=1e-5)
        assert torch.equal(policy.base(**vars(ids)).logits, unmerged)
    assert all(torch.equal(one.get_base_layer().weight, old) for one, old in zip(layers, before, strict=True))
    with policy.reference(), merged(policy.base):
        assert not any(one.merged for one in layers)
