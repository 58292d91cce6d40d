"""Supervised stages: the loss is the mean over labelled tokens, and nothing but the adapter learns."""

import json
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional as F

from reclm.llm.models import digest
from reclm.profilers.reclm import stages
from reclm.profilers.reclm.config import SupervisedConfig
from reclm.profilers.reclm.samples import messages_of, subset
from reclm.profilers.reclm.stages import NO_LOSS, StageRun, Variant, label_chat
from reclm.profilers.tuning.training import load_network

LORA = {"r": 2, "alpha": 4, "dropout": 0.0}
ONE_STEP = {"lora": LORA, "epochs": 1, "batch_size": 4, "accumulate": 2, "limit": 8, "evaluated": 4}


@pytest.fixture(scope="module")
def samples(tuned):
    """The two-turn samples."""
    return load_from_disk(str(tuned / "collab" / "data"))


@pytest.fixture(scope="module")
def tune(tiny, samples, tmp_path_factory):
    """Tunes on the first eight samples, all in one update, and holds the next four out."""

    def tune(variant: Variant = "mask", start=None, **options) -> Path:
        run = StageRun(tiny.model, tiny.prompts, tmp_path_factory.mktemp("stage"), progress=False)
        learned, held_out = samples.select(range(8)), samples.select(range(8, 12))
        return stages.tune(run, learned, held_out, SupervisedConfig(**ONE_STEP | options), variant, start)

    return tune


def metrics(adapter: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (adapter.parent / "metrics.jsonl").read_text().splitlines()]


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


@torch.no_grad()
def by_hand(tiny, samples, variant, network) -> float:
    """Mean negative log-likelihood of the labelled tokens of all samples, one sample at a time."""
    total, count = 0.0, 0
    for row in samples["messages"]:
        sample = label_chat(tiny.prompts, messages_of(row), variant)
        logits = network(input_ids=torch.tensor([sample["input_ids"]])).logits[0].double()
        for place, label in enumerate(sample["labels"]):
            if label != NO_LOSS:
                total -= F.log_softmax(logits[place - 1], -1)[label].item()
                count += 1
    return total / count


@pytest.mark.parametrize("variant", ["mask", "naive"])
def test_the_first_loss_and_the_held_out_loss_are_those_of_a_plain_forward_pass(
    tiny, samples, tune, variant
) -> None:
    rows = metrics(tune(variant, learning_rate=0))
    network = load_network(tiny.model).eval()
    expected = by_hand(tiny, samples.select(range(8)), variant, network)
    assert rows[0]["step"] == 1
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
    held_out = by_hand(tiny, samples.select(range(8, 12)), variant, network)
    assert [one["eval_loss"] for one in rows if "eval_loss" in one] == [pytest.approx(held_out, rel=1e-5)]


def test_mask_and_naive_are_different_losses(tiny, samples) -> None:
    network = load_network(tiny.model).eval()
    losses = [by_hand(tiny, samples.select(range(8)), variant, network) for variant in ("mask", "naive")]
    assert abs(losses[0] - losses[1]) > 0.01


def test_the_held_out_loss_is_logged_after_each_pass(tune) -> None:
    rows = metrics(tune(epochs=3, accumulate=1))
    assert [one["step"] for one in rows if "eval_loss" in one] == [2, 4, 6]
    assert [one["step"] for one in rows if "loss" in one] == [1, 2, 3, 4, 5, 6]
    assert not any("eval_loss" in one for one in metrics(tune(evaluated=0)))


def test_nothing_but_the_adapter_changes(tiny, tune, monkeypatch) -> None:
    before, networks = {}, []

    def loaded(*args, **options):
        network = load_network(*args, **options)
        before.update({name: one.clone() for name, one in network.state_dict().items()})
        networks.append(network)
        return network

    monkeypatch.setattr(stages, "load_network", loaded)
    files = digest(sorted(tiny.model.path.glob("*.safetensors")))
    learned = weights(tune(learning_rate=1e-2))
    assert all("lora_" in name for name in learned)
    assert all(one.any() for name, one in learned.items() if "lora_B" in name)
    after = networks[0].state_dict()
    for name, one in before.items():
        # within the adapter's layers the frozen weights are called base_layer
        parent, _, last = name.rpartition(".")
        now = after[name] if name in after else after[f"{parent}.base_layer.{last}"]
        assert torch.equal(now, one), name
    assert digest(sorted(tiny.model.path.glob("*.safetensors"))) == files


def test_a_learning_rate_of_0_changes_nothing(tune) -> None:
    one, other = weights(tune(learning_rate=0)), weights(tune(learning_rate=0, epochs=3))
    assert not any(value.any() for name, value in one.items() if "lora_B" in name)
    assert all(value.any() for name, value in one.items() if "lora_A" in name)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_start_goes_on_with_the_given_adapter(tiny, samples, tune) -> None:
    start = tune(learning_rate=1e-2)
    same = tune(start=start, learning_rate=0)
    assert all(torch.equal(one, weights(start)[name]) for name, one in weights(same).items())
    network = PeftModel.from_pretrained(load_network(tiny.model), str(start)).eval()
    expected = by_hand(tiny, samples.select(range(8)), "mask", network)
    assert metrics(same)[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert expected < metrics(start)[0]["loss"] - 0.01


def test_subset(samples) -> None:
    wanted = {samples["subject"][0], samples["subject"][-1]}
    some = subset(samples, [*wanted, "nobody"])
    assert set(some["subject"]) == wanted
    assert 2 <= len(some) < len(samples)
    assert len(some) == sum(one in wanted for one in samples["subject"])
