"""The loop, on a toy reward: how often the letter "e" is in the answer."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_policy import (  # pyright: ignore[reportMissingImports]
    PROMPTS,
    count_e,
    make_loop,
    untimed,
    weights,
)

from reclm.errors import BadInput
from reclm.profilers.rl import loop as on_policy
from reclm.profilers.rl import rlso as rlso_module
from reclm.profilers.rl.config import PPOConfig, RLSOConfig
from reclm.profilers.rl.loop import batch_rows
from reclm.profilers.rl.losses import kl_controller
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning.adapter import LoraOptions
from reclm.profilers.tuning.readability import repetition

TOY = RLSOConfig(
    steps=30,
    batch_size=16,
    minibatch_size=8,
    forward_size=8,
    epochs=2,
    learning_rate=1e-2,
    schedule="constant",
    max_new_tokens=8,
    unfinished_reward=None,
    kl_coefficient=0.01,
)


def make(llama, config: RLSOConfig, reward=count_e) -> RLSO:
    return make_loop(RLSO, llama, config, reward)


def with_(**changes) -> RLSOConfig:
    return TOY.model_copy(update=changes)


def leave_reference(rlso: RLSO) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in rlso.policy.network.parameters():
            if one.requires_grad:
                one.add_(torch.randn(one.shape, generator=generator), alpha=0.1)


def sequence_logprobs(rlso: RLSO, rollout) -> torch.Tensor:
    """``(B, 2)``, by way of the logits of all tokens."""
    attention = rollout.attention.long()
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    output = rlso.policy.network(input_ids=rollout.ids, attention_mask=attention, position_ids=positions)
    logprobs = output.logits[:, :-1].log_softmax(-1).gather(-1, rollout.ids[:, 1:, None]).squeeze(-1)
    return logprobs[:, -rollout.answers.shape[1] :].masked_fill(~rollout.answers, 0).sum(1).view(-1, 2)


def batch(rlso: RLSO):
    config = rlso.config
    rows, seeds = batch_rows(rlso.step, config.batch_size, len(PROMPTS), config.seed, samples=2)
    return rlso.sampler.roll_out([PROMPTS[row] for row in rows], config.sampling, seeds, 2)


# of seeds 0 to 15, 14 rise so in 30 steps; 0 and 6 begin too slowly
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_reward_rises(llama, seed):
    rewards = torch.tensor([one["reward"] for one in make(llama, with_(seed=seed)).run()])
    means = rewards.view(6, -1).mean(1)
    assert means[-1] > means[0] + 1.5
    assert (means.diff() > 0).sum() >= 4


def test_one_update_by_hand(llama):
    config = with_(
        batch_size=16,
        minibatch_size=16,
        forward_size=3,
        epochs=1,
        eta=0.5,
        kl_coefficient=0.3,
        unfinished_reward=-0.25,
        max_new_tokens=24,
        max_gradient_norm=1e9,
    )
    rlso, other = make(llama, config), make(llama, config)
    for one in (rlso, other):
        leave_reference(one)
    metrics = rlso.train_step()

    rollout = batch(other)
    assert 0 < rollout.unfinished.sum() < 32
    new = sequence_logprobs(other, rollout)
    with torch.no_grad(), other.policy.reference():
        kl = new - sequence_logprobs(other, rollout)
    assert kl.abs().min() > 0
    counts = torch.tensor([float(text.count("e")) for text in rollout.texts])
    counts[rollout.unfinished] = -0.25
    rewards = counts.view(-1, 2) - 0.3 * kl.detach()
    rewards = (rewards - rewards.mean()) / rewards.std(correction=0)
    ratio = new - new.detach()
    loss = (((rewards[:, 0] - rewards[:, 1]) - (ratio[:, 0] - ratio[:, 1]) / 0.5) ** 2).mean()
    loss.backward()

    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["reward"] == pytest.approx(counts.mean().item())
    assert metrics["kl"] == pytest.approx(kl.mean().item(), rel=1e-4)
    assert metrics["unfinished"] == rollout.unfinished.float().mean()
    wanted = {name: one.grad for name, one in other.policy.named_parameters() if one.grad is not None}
    for name, one in rlso.policy.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(one.grad, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_old_policy_is_that_of_the_batch_in_every_epoch(llama):
    config = with_(steps=1, minibatch_size=16, epochs=2, learning_rate=1e-3)
    twice, once, fresh = (
        make(llama, one) for one in (config, config.model_copy(update={"epochs": 1}), config)
    )
    rollout = batch(fresh)
    counts = torch.tensor([float(text.count("e")) for text in rollout.texts])
    rewards = ((counts - counts.mean()) / counts.std(correction=0)).view(-1, 2)
    gap = rewards[:, 0] - rewards[:, 1]
    first = once.train_step()["loss"]
    assert first == pytest.approx(gap.square().mean().item(), rel=1e-4)

    with torch.no_grad():
        ratio = sequence_logprobs(once, rollout) - sequence_logprobs(fresh, rollout)
    second = (gap - (ratio[:, 0] - ratio[:, 1])).square().mean().item()
    assert second < first
    metrics = twice.train_step()
    assert metrics["loss"] == pytest.approx((first + second) / 2, rel=1e-4)
    assert metrics["updates"] == 2


@pytest.mark.parametrize("options", [None, LoraOptions(train="last_layers", layers=1)], ids=["lora", "whole"])
def test_four_answers_to_a_prompt(llama, options):
    config = with_(steps=1, samples=4, batch_size=4, minibatch_size=4, forward_size=2, epochs=1)
    config = config.model_copy(update={"precision": "f32", "max_gradient_norm": 1e9})
    rlso, other = (make_loop(RLSO, llama, config, count_e, options) for _ in range(2))
    metrics = rlso.train_step()
    rows, seeds = batch_rows(0, 4, len(PROMPTS), config.seed, samples=4)
    rollout = other.sampler.roll_out([PROMPTS[row] for row in rows], config.sampling, seeds, 4)
    counts = torch.tensor([float(text.count("e")) for text in rollout.texts])
    rewards = ((counts - counts.mean()) / counts.std(correction=0)).view(4, 4)
    new = sequence_logprobs(other, rollout).view(4, 4)
    ratio = new - new.detach()
    pairs = [(i, j) for i in range(4) for j in range(i)]
    errors = [(rewards[:, i] - rewards[:, j]) - (ratio[:, i] - ratio[:, j]) for i, j in pairs]
    loss = torch.stack(errors).square().mean()
    loss.backward()
    gaps = torch.stack([(counts.view(4, 4)[:, i] - counts.view(4, 4)[:, j]).abs() for i, j in pairs])
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["reward_gap"] == pytest.approx(gaps.mean().item())
    for (name, one), wanted in zip(rlso.policy.named_parameters(), other.policy.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, wanted.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_the_weight_of_kl_is_steered(llama):
    config = with_(steps=6, learning_rate=3e-2, kl_coefficient=0.1, kl_target=0.05, kl_gain=0.5)
    metrics = list(make(llama, config).run())
    weights_of_kl = [one["kl_coefficient"] for one in metrics]
    # each step changes it by the KL of the one before, at most by a fifth of the gain
    for before, after, one in zip(weights_of_kl, weights_of_kl[1:], metrics, strict=False):
        assert after == pytest.approx(kl_controller(before, one["kl"], 0.05, 0.5))
    assert weights_of_kl[1] == pytest.approx(0.1 * 0.9)
    assert weights_of_kl[-1] > min(weights_of_kl)
    with pytest.raises(BadInput, match="kl_target"):
        RLSOConfig.build({"kl_coefficient": 0, "kl_target": 1})


def test_guards_change_what_is_learned_and_not_the_reward(llama, monkeypatch):
    seen = {}
    learn = RLSO._learn

    def noted(self, rollout, rewards):
        seen.update(rewards=rewards, rollout=rollout)
        return learn(self, rollout, rewards)

    monkeypatch.setattr(RLSO, "_learn", noted)
    config = with_(steps=1, max_new_tokens=24, finish_reward=0.5, repeat_penalty=2.0)
    (metrics,) = make(llama, config).run()
    rollout, texts = seen["rollout"], seen["rollout"].texts
    assert 0 < metrics["unfinished"] < 1
    counts = torch.tensor([float(text.count("e")) for text in texts])
    wanted = counts + 0.5 * ~rollout.unfinished - 2 * torch.from_numpy(repetition(texts)).float()
    torch.testing.assert_close(seen["rewards"], wanted)
    assert metrics["reward"] == pytest.approx(counts.mean().item())
    assert metrics["repeating"] == (repetition(texts) > 0).mean()


def test_equal_rewards_move_nothing(llama):
    rlso = make(
        llama, with_(steps=1, kl_coefficient=0.0, weight_decay=0.0), lambda texts, rows: [0.3] * len(texts)
    )
    before = weights(rlso)
    (metrics,) = rlso.run()
    assert metrics["loss"] == metrics["reward_gap"] == 0
    assert all(torch.equal(one, before[name]) for name, one in weights(rlso).items())


def test_the_better_answer_becomes_likelier(llama):
    def first_is_better(texts, rows):
        return [1.0, 0.0] * (len(texts) // 2)

    rlso = make(llama, with_(epochs=1, learning_rate=1e-3), first_is_better)
    rollout = batch(rlso)
    before = sequence_logprobs(rlso, rollout)
    rlso.train_step()
    moved = sequence_logprobs(rlso, rollout) - before
    assert (moved[:, 0] - moved[:, 1]).mean() > 0.1


def test_a_learning_rate_of_zero_moves_nothing(llama):
    rlso = make(llama, with_(learning_rate=0.0, steps=2))
    before = weights(rlso)
    metrics = list(rlso.run())
    assert all(torch.equal(one, before[name]) for name, one in weights(rlso).items())
    assert [one["kl"] for one in metrics] == [0, 0]


def test_only_the_adapter_moves(llama):
    rlso = make(llama, with_(steps=2))
    before = weights(rlso)
    first, second = rlso.run()
    assert first["kl"] == 0
    assert second["kl_token"] > 0
    for name, one in weights(rlso).items():
        assert torch.equal(one, before[name]) != ("lora_" in name), name


def test_the_rate_falls_to_zero(llama):
    rates = [one["learning_rate"] for one in make(llama, with_(steps=4, schedule="linear")).run()]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


@pytest.mark.parametrize(
    ("lora", "precision"),
    [
        (LoraOptions(r=4, alpha=8), "f32"),
        (LoraOptions(train="last_layers", layers=1), "f32"),
        (LoraOptions(train="last_layers", layers=1), "bf16"),
    ],
)
def test_a_resumed_run_is_the_unbroken_one(llama, tmp_path, lora, precision):
    def noisy(texts, rows):
        return [text.count("e") + float(torch.rand(())) for text in texts]

    config = with_(steps=5, schedule="linear", precision=precision, kl_target=1.0)
    torch.manual_seed(4)
    unbroken = make_loop(RLSO, llama, config, noisy, lora)
    wanted = []
    for metrics in unbroken.run():
        wanted.append(untimed(metrics))
        if unbroken.step == 3:
            assert unbroken.save(tmp_path).name == "step-000003"

    torch.manual_seed(5)
    resumed = make_loop(RLSO, llama, config, noisy, lora)
    assert resumed.resume(tmp_path)
    assert [untimed(one) for one in resumed.run()] == wanted[3:]
    for name, one in weights(resumed).items():
        assert torch.equal(one, weights(unbroken)[name]), name
    # a checkpoint has what is trained, and no frozen weight
    names = load_file(tmp_path / "step-000003" / "adapter_model.safetensors").keys()
    assert len(names) == sum(one.requires_grad for one in resumed.policy.network.parameters())


def test_a_checkpoint_of_other_options(llama, tmp_path):
    make(llama, TOY).save(tmp_path)
    with pytest.raises(BadInput, match="eta"):
        make(llama, with_(eta=2.0)).resume(tmp_path)


def test_turns_go_on_where_the_one_before_ended(llama):
    config = with_(steps=3)
    whole, turns = make(llama, config), make(llama, config)
    wanted = [untimed(one) for one in whole.run()]
    got = [*islice(turns.run(), 1), *islice(turns.run(), 5)]
    assert [untimed(one) for one in got] == wanted


def test_an_answer_that_is_cut_gets_its_own_reward(llama):
    (metrics,) = make(llama, with_(steps=1, max_new_tokens=1, unfinished_reward=-5.0)).run()
    assert metrics["unfinished"] > 0.5
    assert metrics["reward"] == pytest.approx(-5 * metrics["unfinished"])


def test_answers_to_a_prompt_are_next_to_each_other_and_differ(llama):
    seen = {}

    def reward(texts, rows):
        seen.update(texts=texts, rows=rows)
        return [0.0] * len(texts)

    make(llama, with_(batch_size=6), reward).train_step()
    assert seen["rows"][::2] == seen["rows"][1::2]
    assert sorted(seen["rows"][::2]) == list(range(6))
    assert all(first != second for first, second in zip(seen["texts"][::2], seen["texts"][1::2], strict=True))


def test_many_processes_answer_what_one_does():
    rows, seeds = batch_rows(3, 8, 6, seed=1, samples=2)
    shares = [batch_rows(3, 8, 6, 1, process, 2, samples=2) for process in range(2)]
    for at in range(8):
        own = slice(2 * (at // 2), 2 * (at // 2) + 2)
        assert shares[at % 2][0][own] == rows[2 * at : 2 * at + 2]
        assert shares[at % 2][1][own] == seeds[2 * at : 2 * at + 2]
    assert len({*seeds, *batch_rows(4, 8, 6, seed=1, samples=2)[1]}) == 32


PPO_TOY = PPOConfig(
    batch_size=16,
    minibatch_size=32,
    samples=2,
    epochs=2,
    learning_rate=1e-2,
    max_new_tokens=8,
    top_p=1.0,
    steps=2,
    update_kl=None,
)


@pytest.mark.parametrize(
    ("kind", "config", "lora"),
    [
        (
            RLSO,
            with_(steps=2, minibatch_size=16, forward_size=3, kl_coefficient=0.1),
            LoraOptions(r=4, alpha=8),
        ),
        (
            RLSO,
            with_(steps=2, minibatch_size=16, samples=3, precision="f32"),
            LoraOptions(train="last_layers", layers=1),
        ),
        (PPO, PPO_TOY.model_copy(update={"precision": "f32"}), LoraOptions(train="last_layers", layers=1)),
    ],
    ids=["lora", "last_layers", "ppo"],
)
def test_two_processes_train_as_one_does(llama, tmp_path, kind, config, lora):
    together = [untimed(one) for one in make_loop(kind, llama, config, count_e, lora).run()]
    script, file = Path(__file__).with_name("two_processes.py"), tmp_path / "metrics.json"
    # half of the minibatch on each: both take the batch as a whole
    half = config.model_copy(update={"minibatch_size": config.minibatch_size // 2})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, script, llama.path, half.model_dump_json(), lora.model_dump_json(), file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["processes"] == 2
    names = {"reward", "reward_std", "kl", "tokens", "unfinished", "updates", "kl_coefficient"}
    names |= {"loss", "reward_gap"} & together[0].keys()
    for got, wanted in zip(written["metrics"], together, strict=True):
        for name in names:
            assert got[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-7), name
    assert together[1]["kl"] != 0


def test_every_metric_is_named(llama):
    first, second = (set(one) for one in make(llama, with_(steps=2)).run())
    assert first == second
    text = f"{on_policy.__doc__}{rlso_module.__doc__}"
    assert {name for name in first if f"``{name}``" not in text} == set()
