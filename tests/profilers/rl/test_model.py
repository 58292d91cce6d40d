"""One copy of the weights: policy, reference and values."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from reclm.errors import Damaged, NotFound
from reclm.profilers.rl.policy import Policy
from reclm.profilers.tuning.adapter import LoraOptions

IDS = torch.tensor([[0, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 0]])
ATTENTION = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
ANSWERS = ATTENTION[:, 3:].bool()


def scored(policy):
    with torch.no_grad():
        return policy(IDS, ATTENTION, ANSWERS)


def test_begins_as_its_reference(policy):
    ours = scored(policy)
    with policy.reference():
        assert torch.equal(scored(policy).logprobs, ours.logprobs)
    assert not ours.values.any()


def test_with_the_adapter_off_it_is_the_base_model_bit_for_bit(network, llama):
    plain = deepcopy(network)
    policy = Policy.adapt(network)
    with torch.no_grad():
        for name, one in policy.named_parameters():
            if "lora_B" in name:
                one.add_(0.1)
        ours = policy.network(input_ids=IDS).logits
        with policy.reference():
            reference = policy.network(input_ids=IDS).logits
        wanted = plain(input_ids=IDS).logits
        again = policy.network(input_ids=IDS).logits
    assert torch.equal(reference, wanted)
    assert not torch.equal(ours, wanted)
    assert torch.equal(again, ours)


def test_only_adapter_and_value_head_are_trained(policy):
    trained = {name for name, one in policy.named_parameters() if one.requires_grad}
    assert all("lora_" in name or name.startswith("value_head.") for name in trained)
    assert "value_head.weight" in trained
    with policy.reference():
        pass
    assert {name for name, one in policy.named_parameters() if one.requires_grad} == trained


def test_gradients_reach_adapter_and_value_head(moved):
    scores = moved(IDS, ATTENTION, ANSWERS)
    (scores.logprobs.sum() + scores.values.sum()).backward()
    for name, one in moved.named_parameters():
        assert (one.grad is not None and bool(one.grad.any())) == one.requires_grad, name


def test_values_are_those_of_the_state_before_the_token(moved):
    with torch.no_grad():
        hidden = moved.base.get_decoder()(input_ids=IDS[1:, :5]).last_hidden_state[0]
        wanted = hidden[2:4] @ moved.value_head.weight[0] + moved.value_head.bias
    values = scored(moved).values[1]
    torch.testing.assert_close(values[:2], wanted, rtol=1e-4, atol=1e-5)
    assert values[2] == 0


def test_save_and_read(moved, llama, tmp_path):
    moved.save(tmp_path / "policy")
    assert {one.suffix for one in (tmp_path / "policy").iterdir()} == {".json", ".safetensors", ".md"}
    fresh = AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32)
    read = Policy.adapt(fresh, LoraOptions(r=4, alpha=8), seed=9)
    read.load(tmp_path / "policy")
    for got, wanted in zip(scored(read), scored(moved), strict=True):
        assert torch.equal(got, wanted)
    assert any(one.requires_grad for one in read.network.parameters())


def test_equal_seeds_equal_adapters_and_the_global_state_is_left_alone(llama):
    first, again, other = (
        AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32) for _ in range(3)
    )

    def adapted(network, seed):
        policy = Policy.adapt(network, seed=seed)
        return torch.cat([one.flatten() for name, one in policy.named_parameters() if "lora_A" in name])

    torch.manual_seed(5)
    matrices = adapted(first, 1)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn
    assert torch.equal(adapted(again, 1), matrices)
    assert not torch.equal(adapted(other, 2), matrices)


def test_a_tuned_model_is_its_own_reference(network):
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    tuned = get_peft_model(network, config).eval()
    with torch.no_grad():
        wanted = tuned(input_ids=IDS).logits
        policy = Policy.adapt(tuned)
        with policy.reference():
            got = policy.network(input_ids=IDS).logits
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_folder_without_a_policy(policy, network, tmp_path):
    with pytest.raises(NotFound, match=r"adapter_model\.safetensors"):
        policy.load(tmp_path)
    policy.save(tmp_path / "damaged")
    (tmp_path / "damaged" / "value_head.safetensors").write_bytes(b"torn")
    with pytest.raises(Damaged):
        policy.load(tmp_path / "damaged")


def test_an_adapter_of_another_size(policy, llama, tmp_path):
    policy.save(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32)
    with pytest.raises(Damaged):
        Policy.adapt(fresh, LoraOptions(r=2)).load(tmp_path)
