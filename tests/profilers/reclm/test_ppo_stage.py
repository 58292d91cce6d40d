"""PPO as a stage, and one adapter out of two."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from reclm.errors import BadInput
from reclm.profilers.reclm import stages
from reclm.profilers.reclm.stages import StageRun, combine_adapters
from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.tuning.adapter import LoraOptions, add_adapter, with_adapter
from reclm.profilers.tuning.training import load_network

PROMPTS = [[1, 40 + row, 60, 61, 62][: 3 + row % 3] for row in range(6)]
LORA = LoraOptions(r=2, alpha=6)
TOY = PPOConfig(
    steps=3,
    batch_size=8,
    minibatch_size=8,
    epochs=2,
    learning_rate=1e-2,
    schedule="constant",
    max_new_tokens=6,
)


def train_ppo(tiny, reward, folder: Path, config: PPOConfig, start: Path | None = None) -> Path:
    run = StageRun(tiny.model, tiny.prompts, folder, progress=False)
    return stages.train_ppo(run, PROMPTS, reward, config, LORA, start)


def count_e(texts, rows) -> list[int]:
    return [text.count("e") for text in texts]


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def moved(tiny, folder: Path, lora: LoraOptions, seed: int) -> Path:
    """An adapter that has learned something random."""
    network = add_adapter(load_network(tiny.model), lora, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, one in network.named_parameters():
            if "lora_B" in name:
                one.copy_(0.1 * torch.randn(one.shape, generator=generator))
    network.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@torch.no_grad()
def logits(network) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12) + 30
    return network.eval()(input_ids=ids).logits


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory) -> list[Path]:
    """Adapters of different ranks and scales."""
    folder = tmp_path_factory.mktemp("two")
    sizes = [LoraOptions(r=3, alpha=4), LORA]
    return [moved(tiny, folder / str(at), one, at) for at, one in enumerate(sizes)]


def test_the_combined_adapter_is_the_first_merged_and_the_second_on_top(tiny, two, tmp_path) -> None:
    combine_adapters(tiny.model, two[0], two[1], tmp_path / "both")
    network = PeftModel.from_pretrained(load_network(tiny.model), str(two[0]))
    network = PeftModel.from_pretrained(network.merge_and_unload(), str(two[1]))
    expected, plain = logits(network), logits(load_network(tiny.model))
    found = logits(PeftModel.from_pretrained(load_network(tiny.model), str(tmp_path / "both")))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # neither one alone, nor the model as it is, says the same
    for one in (*two, None):
        network = load_network(tiny.model)
        alone = logits(network if one is None else PeftModel.from_pretrained(network, str(one)))
        assert (alone - expected).abs().max() > 0.1
    assert (plain - expected).abs().max() > 0.1
    assert sorted(one.name for one in (tmp_path / "both").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_an_adapter_of_the_last_layer_is_combined_with_one_of_all(tiny, two, tmp_path, order: int) -> None:
    last = moved(tiny, tmp_path / "last", LoraOptions(r=2, alpha=6, layers=1), 5)
    first, second = [two[0], last][::order]
    combine_adapters(tiny.model, first, second, tmp_path / "both")
    network = PeftModel.from_pretrained(load_network(tiny.model), str(first))
    expected = logits(PeftModel.from_pretrained(network.merge_and_unload(), str(second)))
    found = logits(PeftModel.from_pretrained(load_network(tiny.model), str(tmp_path / "both")))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_layers_trained_themselves_take_the_place_of_the_first_adapters(
    tiny, two, tmp_path, first: bool, layers: int
) -> None:
    run = StageRun(tiny.model, tiny.prompts, tmp_path / "ppo", progress=False)
    config = TOY.model_copy(update={"precision": "f32"})
    whole = LoraOptions(train="last_layers", layers=layers)
    start = two[0] if first else None
    policies = []
    adapt = Policy.adapt

    def noted(*options, **more) -> Policy:
        policies.append(adapt(*options, **more))
        return policies[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Policy, "adapt", noted)
        adapter = stages.train_ppo(run, PROMPTS, count_e, config, whole, start)
    expected = logits(policies[0].network)
    found = logits(PeftModel.from_pretrained(load_network(tiny.model), str(adapter)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with policies[0].reference():
        assert (logits(policies[0].network) - expected).abs().max() > 1e-3
    merged = with_adapter(load_network(tiny.model), adapter).merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)


def test_without_a_first_it_is_the_second(tiny, two, tmp_path) -> None:
    combine_adapters(tiny.model, None, two[1], tmp_path / "one")
    expected = logits(PeftModel.from_pretrained(load_network(tiny.model), str(two[1])))
    found = logits(PeftModel.from_pretrained(load_network(tiny.model), str(tmp_path / "one")))
    torch.testing.assert_close(found, expected)


def test_what_is_left_is_adapter_and_metrics(tiny, two, tmp_path) -> None:
    adapter = train_ppo(tiny, count_e, tmp_path, TOY, two[0])
    assert adapter == tmp_path / "adapter"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["adapter", "metrics.jsonl", "tensorboard"]
    assert [one["step"] for one in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert {"reward", "kl", "entropy", "policy_loss", "kl_coefficient"} <= lines(tmp_path)[0].keys()


@pytest.mark.parametrize(
    ("done", "first", "every"), [(1, False, 1), (3, True, 1), (3, True, 2), (3, False, 7), (0, False, 7)]
)
def test_where_kl_runs_away_the_adapter_is_that_of_the_step_before(
    tiny, two, tmp_path, monkeypatch, done: int, first: bool, every: int
) -> None:
    start = two[0] if first else None
    config = TOY.model_copy(update={"steps": 9, "kl_target": 1.0, "checkpoint_steps": every})
    step = PPO.train_step

    def run_away(self: PPO) -> dict[str, float]:
        # whatever the policy is, its KL is too much once so many steps are done
        self.config = config.model_copy(update={"runaway": -1e9 if self.step == done else None})
        metrics = step(self)
        self.config = config
        return metrics

    with monkeypatch.context() as patched:
        patched.setattr(PPO, "train_step", run_away)
        stopped = train_ppo(tiny, count_e, tmp_path / "a", config, start)
    rows = lines(tmp_path / "a")
    assert [one["step"] for one in rows] == list(range(1, done + 2))
    assert [one["stopped"] for one in rows] == [0.0] * done + [1.0]
    if done > 1:
        config = config.model_copy(update={"steps": done - 1})
        expected = train_ppo(tiny, count_e, tmp_path / "b", config, start)
        assert all(torch.equal(one, weights(expected)[name]) for name, one in weights(stopped).items())
    else:
        assert not any(one.any() for name, one in weights(stopped).items() if "lora_B" in name)


@pytest.mark.parametrize("every", [1, 3])
def test_a_run_broken_between_checkpoint_and_metrics_has_each_step_once(
    tiny, tmp_path, monkeypatch, every: int
) -> None:
    config = TOY.model_copy(update={"checkpoint_steps": every})
    unbroken = train_ppo(tiny, count_e, tmp_path / "a", TOY)
    save = PPO.save

    def broken(self: PPO, folder: Path, **options) -> None:
        if save(self, folder, **options).name == "step-000002":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PPO, "save", broken)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(tiny, count_e, tmp_path / "b", config)
    assert (tmp_path / "b" / "checkpoints" / "step-000002").exists() == (every == 1)
    # what a killed run left of the checkpoint that it was writing
    (tmp_path / "b" / "checkpoints" / "step-000003.partial").mkdir()
    again = train_ppo(tiny, count_e, tmp_path / "b", TOY)
    assert [one["step"] for one in lines(tmp_path / "b")] == [1, 2, 3]
    assert all(torch.equal(one, weights(unbroken)[name]) for name, one in weights(again).items())


def test_a_run_broken_behind_the_runaway_step_stays_stopped(tiny, tmp_path, monkeypatch) -> None:
    config = TOY.model_copy(update={"kl_target": 1e-9, "runaway": 1.5, "learning_rate": 5e-2})

    def broken(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("reclm.profilers.reclm.stages.combine_adapters", broken)
        with pytest.raises(KeyboardInterrupt):
            train_ppo(tiny, count_e, tmp_path, config)
    before = lines(tmp_path)
    assert before[-1]["stopped"] == 1
    (tmp_path / "checkpoints" / "step-000009.partial").mkdir()
    train_ppo(tiny, count_e, tmp_path, config)
    assert lines(tmp_path) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["adapter", "metrics.jsonl", "tensorboard"]


def test_other_options_are_refused_while_it_is_broken(tiny, tmp_path) -> None:
    def broken(texts, rows) -> list[int]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return count_e(texts, rows)

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train_ppo(tiny, broken, tmp_path, TOY)
    other = TOY.model_copy(update={"clip": 0.5})
    with pytest.raises(BadInput, match="clip"):
        train_ppo(tiny, count_e, tmp_path, other)
