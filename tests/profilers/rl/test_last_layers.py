"""An adapter on the last layers only, and the last layers trained themselves."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from peft import PeftModel
from toy_policy import count_e, make_loop, weights  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM

from reclm.errors import BadInput, Damaged
from reclm.profilers.reclm.config import RecLMConfig
from reclm.profilers.rl.config import PPOConfig, RLSOConfig
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning.adapter import LoraOptions

IDS = torch.tensor([[3, 4, 5, 6, 7, 9]])
ADAPTER = LoraOptions(r=4, alpha=8, layers=1)
WHOLE = LoraOptions(train="last_layers", layers=1)
# the final norm has 32; q and o 32 x 32, k and v 32 x 16, three of 32 x 64, two norms of 32
LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32

both = pytest.mark.parametrize("options", [ADAPTER, WHOLE], ids=["adapter", "whole"])


adapted = partial(Policy.adapt, precision="f32")


def fresh(llama):
    return AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32).eval()


@torch.no_grad()
def logits(network) -> torch.Tensor:
    return network(input_ids=IDS).logits


def trained(policy: Policy) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in policy.network.named_parameters() if one.requires_grad}


def move(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in trained(policy).values():
            one.add_(torch.randn(one.shape, generator=generator), alpha=0.1)


@pytest.mark.parametrize(
    ("options", "numbers", "layers"),
    [
        # rank 4 times inputs and outputs of each matrix
        (ADAPTER, 4 * (2 * 64 + 2 * 48 + 3 * 96), {"1"}),
        (LoraOptions(r=4, layers=2), 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96), {"0", "1"}),
        (LoraOptions(r=4, layers=1, modules=["q_proj", "v_proj"]), 4 * (64 + 48), {"1"}),
        (LoraOptions(r=4, layers=1, modules=r".*\.q_proj"), 4 * 64, {"1"}),
        (WHOLE, LAYER + 32, {"1"}),
        (LoraOptions(train="last_layers", layers=2), 2 * LAYER + 32, {"0", "1"}),
    ],
)
def test_what_is_trained(network, options, numbers, layers):
    found = trained(Policy.adapt(network, options))
    assert sum(one.numel() for one in found.values()) == numbers
    assert {name.split("layers.")[1].split(".")[0] for name in found if "layers." in name} == layers
    assert all(("lora_" in name) != options.whole for name in found)


@both
def test_begins_as_its_reference_which_stays_bit_for_bit(llama, options):
    start = logits(fresh(llama))
    policy = adapted(fresh(llama), options)
    assert torch.equal(logits(policy.network), start)
    names = trained(policy).keys()
    optimizer = torch.optim.AdamW(trained(policy).values(), lr=1e-2)
    for _ in range(2):
        policy.network(input_ids=IDS, labels=IDS).loss.backward()
        assert all(one.grad is not None for one in trained(policy).values())
        optimizer.step()
        optimizer.zero_grad()
        moved = logits(policy.network)
        with policy.reference():
            assert torch.equal(logits(policy.network), start)
        assert not torch.allclose(moved, start, atol=1e-2)
        assert torch.equal(logits(policy.network), moved)
        assert trained(policy).keys() == names


@both
def test_saved_and_loaded(llama, tmp_path, options):
    policy = adapted(fresh(llama), options)
    move(policy)
    policy.save(tmp_path)
    loaded = adapted(fresh(llama), options, seed=7)
    loaded.load(tmp_path)
    start = logits(fresh(llama))
    assert torch.equal(logits(loaded.network), logits(policy.network))
    assert trained(loaded).keys() == trained(policy).keys()
    with loaded.reference():
        assert torch.equal(logits(loaded.network), start)


@both
def test_merged_is_unmerged(llama, tmp_path, options):
    policy = adapted(fresh(llama), options)
    move(policy)
    policy.save(tmp_path)
    wanted = logits(policy.network)
    merged = PeftModel.from_pretrained(fresh(llama), str(tmp_path)).merge_and_unload()
    assert merged.state_dict().keys() == fresh(llama).state_dict().keys()
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-4)
    # the tuned model is the reference of what goes on from it
    further = adapted(PeftModel.from_pretrained(fresh(llama), str(tmp_path)), options)
    move(further)
    with further.reference():
        torch.testing.assert_close(logits(further.network), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("saved", "asked"),
    [
        (WHOLE, LoraOptions()),
        (LoraOptions(), WHOLE),
        (ADAPTER, LoraOptions(r=4)),
        (LoraOptions(r=4), ADAPTER),
        (LoraOptions(train="last_layers", layers=2), WHOLE),
        (WHOLE, LoraOptions(train="last_layers", layers=2)),
    ],
)
def test_what_was_trained_otherwise_is_refused(llama, tmp_path, saved, asked):
    Policy.adapt(fresh(llama), saved).save(tmp_path)
    with pytest.raises(Damaged):
        Policy.adapt(fresh(llama), asked).load(tmp_path)


SMALL = {
    "precision": "f32",
    "steps": 2,
    "batch_size": 4,
    "minibatch_size": 4,
    "epochs": 1,
    "learning_rate": 1e-2,
    "max_new_tokens": 8,
}


@both
@pytest.mark.parametrize(
    ("kind", "config"),
    [(PPO, PPOConfig.build(SMALL)), (RLSO, RLSOConfig.build({**SMALL, "unfinished_reward": None}))],
    ids=["ppo", "rlso"],
)
def test_a_step_moves_what_is_trained_and_nothing_else(llama, tmp_path, kind, config, options):
    loop = make_loop(kind, llama, config, count_e, options)
    names, before = trained(loop.policy).keys(), weights(loop)
    first = loop.train_step()
    assert first["kl"] == 0
    after = weights(loop)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.removeprefix("network.") for name in moved if not name.startswith("value_head")} <= names
    assert any("layers.1." in name for name in moved)
    loop.save(tmp_path)
    again = make_loop(kind, llama, config, count_e, options)
    assert again.resume(tmp_path)
    for name, one in weights(again).items():
        assert torch.equal(one, after[name]), name
    second = loop.train_step()
    assert second["kl"] != 0
    assert again.train_step()["reward"] == second["reward"]


def test_what_cannot_be_trained_is_one_line(network):
    for options, message in (
        (LoraOptions(layers=3), "layers = 3, but LlamaForCausalLM has 2 layers; ask for fewer"),
        (LoraOptions(train="last_layers", layers=3), "layers = 3, but LlamaForCausalLM has 2 layers"),
        (LoraOptions(layers=1, modules=["query"]), r"the last 1 layers have no modules \['query'\]"),
    ):
        with pytest.raises(BadInput, match=message):
            Policy.adapt(network, options)
    with pytest.raises(BadInput, match="bfloat16"):
        Policy.adapt(deepcopy(network).bfloat16(), WHOLE)
    with pytest.raises(BadInput, match="last_layers"):
        RecLMConfig.build({"kd": {"lora": WHOLE.model_dump()}})


def test_options_of_version_0_1():
    read = LoraOptions.model_validate
    assert read({"r": 4, "last_layers": 2, "whole": True}) == LoraOptions(train="last_layers", layers=2)
    assert read({"r": 4, "last_layers": None, "whole": False}) == LoraOptions()
