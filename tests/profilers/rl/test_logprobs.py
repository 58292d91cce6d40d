"""Log-probabilities in chunks against the dense computation of transformers."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from reclm.errors import BadInput
from reclm.profilers.rl.decoder import SplitDecoder
from reclm.profilers.rl.policy import token_logprobs

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZE),
    "gpt2": GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=1
    ),
    "gemma2": Gemma2Config(**SIZE, head_dim=16, query_pre_attn_scalar=16, final_logit_softcapping=3.0),
    "granite": GraniteConfig(**SIZE, logits_scaling=4.0),
    "cohere": CohereConfig(**SIZE, logit_scale=0.25),
}


def made(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()


@pytest.fixture
def batch():
    """Three rows: prompts of 3, 5 and 1 tokens, answers of 4, 2 and 1."""
    ids = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    prompt, answer = torch.tensor([3, 5, 1]), torch.tensor([4, 2, 1])
    column = torch.arange(9)
    attention = (column >= 5 - prompt.unsqueeze(1)) & (column < 5 + answer.unsqueeze(1))
    return SimpleNamespace(ids=ids.masked_fill(~attention, 0), attention=attention, answers=attention[:, 5:])


def dense(network, batch, temperature: float):
    positions = (batch.attention.long().cumsum(-1) - 1).clamp(min=0)
    logits = network(
        input_ids=batch.ids, attention_mask=batch.attention.long(), position_ids=positions, use_cache=False
    ).logits[:, 4:-1]
    spread = torch.distributions.Categorical(logits=logits.float() / temperature)
    return [one * batch.answers for one in (spread.log_prob(batch.ids[:, 5:]), spread.entropy())]


def chunked(network, batch, temperature: float, chunk: int):
    decoder = SplitDecoder(network)
    hidden = decoder.hidden(batch.ids, batch.attention, 5)
    return token_logprobs(decoder, hidden, batch.ids[:, 5:], batch.answers, temperature, chunk)


def gradients(network, results) -> dict[str, torch.Tensor]:
    logprobs, entropies = results
    (logprobs.square().sum() + entropies.sum()).backward()
    return {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_the_dense_computation(name, batch):
    network = made(name)
    other = deepcopy(network)
    for chunk in (1, 3, 100):
        ours = chunked(network, batch, 0.7, chunk)
        for got, wanted in zip(ours, dense(other, batch, 0.7), strict=True):
            assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    wanted = gradients(other, dense(other, batch, 0.7))
    got = gradients(network, chunked(network, batch, 0.7, 3))
    assert got.keys() == wanted.keys()
    for key, one in got.items():
        assert_close(one, wanted[key], rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_without_entropies_the_gradient_comes_with_the_logits(name, chunk, batch, monkeypatch):
    network = made(name)
    other, decoder = deepcopy(network), SplitDecoder(network)
    network.get_output_embeddings().requires_grad_(False)
    other.get_output_embeddings().requires_grad_(False)
    runs, logits = [], decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda hidden: runs.append(len(hidden)) or logits(hidden))
    hidden = decoder.hidden(batch.ids, batch.attention, 5)
    found, entropies = token_logprobs(decoder, hidden, batch.ids[:, 5:], batch.answers, 0.7, chunk, False)
    wanted = dense(other, batch, 0.7)[0]
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not entropies.any()
    found.square().sum().backward()
    wanted.square().sum().backward()
    # the output layer ran once on each token
    assert sum(runs) == 7
    for (key, one), whole in zip(network.named_parameters(), other.parameters(), strict=True):
        if one.requires_grad:
            assert_close(one.grad, whole.grad, rtol=1e-4, atol=1e-4, msg=key)
    with torch.no_grad():
        assert_close(
            token_logprobs(decoder, hidden, batch.ids[:, 5:], batch.answers, 0.7, chunk, False)[0], found
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_that_are_read_once_for_their_answers_give_the_same(name, batch):
    # two answers to each prompt: the batch's rows, and the same prompts with other answers
    ids = batch.ids.repeat_interleave(2, 0)
    attention = batch.attention.repeat_interleave(2, 0)
    ids[1::2, 5:] = ids[1::2, 5:].flip(0)
    attention[1::2, 5:] = attention[1::2, 5:].flip(0)
    pairs = SimpleNamespace(ids=ids, attention=attention, answers=attention[:, 5:])
    network = made(name)
    decoder, other = SplitDecoder(network), deepcopy(network)
    hidden = decoder.hidden(ids, attention, 5, 2)
    ours = token_logprobs(decoder, hidden, ids[:, 5:], pairs.answers, 0.7, 3)
    for got, wanted in zip(ours, dense(other, pairs, 0.7), strict=True):
        assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    wanted = gradients(other, dense(other, pairs, 0.7))
    got = gradients(network, ours)
    assert got.keys() == wanted.keys()
    for key, one in got.items():
        assert_close(one, wanted[key], rtol=1e-4, atol=1e-4, msg=key)


def test_answers_of_one_token_need_their_prompts_only(batch):
    decoder = SplitDecoder(made("llama"))
    ids, attention = batch.ids[:, :6].repeat_interleave(2, 0), batch.attention[:, :6].repeat_interleave(2, 0)
    wanted = decoder.upper(decoder.lower(ids, attention), attention)[:, 4:-1]
    assert_close(decoder.hidden(ids, attention, 5, 2), wanted, rtol=1e-5, atol=1e-5)


def test_equal_under_peft_with_an_adapter_on_the_output_layer(batch):
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False, lora_dropout=0.0)
    network = get_peft_model(made("llama"), config).eval()
    base = network.get_base_model()
    wanted = gradients(base, dense(base, batch, 1.0))
    base.zero_grad()
    got = gradients(base, chunked(base, batch, 1.0, 2))
    assert any("lm_head.lora_A" in key for key in got)
    for key, one in got.items():
        assert_close(one, wanted[key], rtol=1e-4, atol=1e-4, msg=key)


def test_no_more_than_a_chunk_of_logits_at_a_time(batch, monkeypatch):
    sizes = []
    decoder = SplitDecoder(made("llama"))
    logits = SplitDecoder.logits
    monkeypatch.setattr(
        SplitDecoder, "logits", lambda self, hidden: sizes.append(len(hidden)) or logits(self, hidden)
    )
    hidden = decoder.hidden(batch.ids, batch.attention, 5)
    results = token_logprobs(decoder, hidden, batch.ids[:, 5:], batch.answers, 1.0, 3)
    # 4 + 2 + 1 tokens; padding is not computed
    assert sizes == [3, 3, 1]
    results[0].sum().backward()
    assert sorted(sizes) == sorted([3, 3, 1] * 2)


def test_no_answer_tokens(batch):
    batch.answers = torch.zeros_like(batch.answers)
    for one in chunked(made("llama"), batch, 1.0, 3):
        assert one.shape == (3, 4)
        assert not one.any()


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused():
    class Odd(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    with pytest.raises(BadInput, match="Odd"):
        SplitDecoder(Odd(LlamaConfig(**SIZE)).eval())
