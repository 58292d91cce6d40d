"""The loop, on a toy reward: how often the letter "e" is in the answer."""

import json

import pytest
import torch
from accelerate import Accelerator
from toy_policy import (  # pyright: ignore[reportMissingImports]
    PROMPTS,
    count_e,
    make_loop,
    untimed,
    weights,
)

from reclm.errors import BadInput, Damaged
from reclm.profilers.rl import loop as on_policy
from reclm.profilers.rl import ppo as ppo_module
from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.rl.loop import batch_rows
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.rl.rollout import PolicySampler
from reclm.profilers.tuning.checkpoints import checkpoints

TOY = PPOConfig(
    steps=40,
    batch_size=32,
    minibatch_size=16,
    epochs=2,
    learning_rate=1e-2,
    schedule="constant",
    max_new_tokens=8,
    temperature=1.0,
    top_p=1.0,
    kl_coefficient=0.01,
    kl_target=None,
    update_kl=None,
)


def make(llama, config: PPOConfig, reward=count_e) -> PPO:
    return make_loop(PPO, llama, config, reward)


def with_(**changes) -> PPOConfig:
    return TOY.model_copy(update=changes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_reward_rises(llama, seed):
    # slow enough not to reach the ceiling of 8 before the end
    config = with_(seed=seed, learning_rate=5e-3)
    rewards = torch.tensor([one["reward"] for one in make(llama, config).run()])
    means = rewards.view(10, -1).mean(1)
    assert means[-1] > means[0] + 2
    assert (means.diff() > 0).sum() >= 7


def test_one_update_by_hand(llama):
    config = with_(batch_size=8, minibatch_size=8, epochs=1, whiten_rewards=False, max_gradient_norm=1e9)
    ppo, other = make(llama, config), make(llama, config)
    ppo.train_step()

    rows, seeds = batch_rows(0, 8, len(PROMPTS), config.seed)
    rollout = other.sampler.roll_out([PROMPTS[row] for row in rows], config.sampling, seeds)
    score = torch.tensor([float(text.count("e")) for text in rollout.texts])
    answers, width = rollout.answers, rollout.answers.shape[1]
    # values are 0 and policy and reference are equal: what is left of GAE is the discounted score
    to_go = answers.sum(1, keepdim=True) - 1 - torch.arange(width)
    returns = torch.where(answers, score.unsqueeze(1) * 0.95**to_go, 0)
    known = returns[answers]
    advantages = (returns - known.mean()) / known.std(correction=0)

    attention = rollout.attention.long()
    output = other.policy.base(
        input_ids=rollout.ids,
        attention_mask=attention,
        position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
        output_hidden_states=True,
        use_cache=False,
    )
    chosen = output.logits[:, :-1].log_softmax(-1).gather(-1, rollout.ids[:, 1:, None])[:, -width:, 0]
    values = other.policy.value_head(output.hidden_states[-1][:, -width - 1 : -1]).squeeze(-1)
    loss = -(advantages * chosen)[answers].mean() + 0.1 * 0.5 * (values - returns)[answers].square().mean()
    loss.backward()

    wanted = {name: one.grad for name, one in other.policy.named_parameters() if one.requires_grad}
    for name, one in ppo.policy.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(one.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_learning_rate_of_zero_moves_nothing(llama):
    ppo = make(llama, with_(learning_rate=0.0, steps=2))
    before = weights(ppo)
    metrics = list(ppo.run())
    assert all(torch.equal(one, before[name]) for name, one in weights(ppo).items())
    assert [one["kl"] for one in metrics] == [0, 0]


def test_the_policy_begins_as_its_reference(llama):
    first, second = make(llama, with_(steps=2)).run()
    assert first["kl"] == first["kl_token"] == 0
    assert second["kl_token"] > 0


def test_frozen_weights_stay(llama):
    ppo = make(llama, with_(steps=2))
    before = weights(ppo)
    list(ppo.run())
    for name, one in ppo.policy.named_parameters():
        assert torch.equal(one, before[name]) != one.requires_grad, name


def test_a_resumed_run_is_the_unbroken_one(llama, tmp_path):
    def noisy(texts, rows):
        return [text.count("e") + float(torch.rand(())) for text in texts]

    config = with_(steps=5, schedule="linear", kl_target=1.0, runaway=None)
    torch.manual_seed(3)
    unbroken = make(llama, config, noisy)
    torch.manual_seed(4)
    wanted = []
    for metrics in unbroken.run():
        wanted.append(untimed(metrics))
        if unbroken.step in {2, 3}:
            assert unbroken.save(tmp_path).name == f"step-00000{unbroken.step}"

    torch.manual_seed(5)
    resumed = make(llama, config, noisy)
    assert resumed.resume(tmp_path)
    assert resumed.step == 3
    assert [untimed(one) for one in resumed.run()] == wanted[3:]
    for name, one in weights(resumed).items():
        assert torch.equal(one, weights(unbroken)[name]), name


def test_checkpoints_are_whole_or_not_there(llama, tmp_path):
    ppo = make(llama, with_(steps=2))
    assert not ppo.resume(tmp_path)
    path = ppo.save(tmp_path)
    assert ppo.save(tmp_path) == path
    (tmp_path / "step-000009.partial").mkdir()
    assert checkpoints(tmp_path) == [path]
    (path / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(Damaged, match="step-000000"):
        ppo.resume(tmp_path)
    (path / "optimizer.pt").write_bytes(b"torn")
    with pytest.raises(Damaged, match="step-000000"):
        ppo.resume(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(BadInput):
        ppo.save(blocked)


def test_a_checkpoint_of_other_options(llama, tmp_path):
    make(llama, TOY).save(tmp_path)
    with pytest.raises(BadInput, match="clip"):
        make(llama, with_(clip=0.3)).resume(tmp_path)
    assert make(llama, with_(steps=90)).resume(tmp_path)


@pytest.mark.parametrize("wrong", [{"config": None}, {"kl_coefficient": "x"}, {"stopped": 2}, {"step": "x"}])
def test_a_checkpoint_whose_state_is_none_is_damaged(llama, tmp_path, wrong):
    ppo = make(llama, with_(steps=2))
    file = ppo.save(tmp_path) / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(Damaged):
        ppo.resume(tmp_path)


def test_kl_is_held_near_its_target(llama):
    free = list(make(llama, with_(steps=20, kl_coefficient=0.2)).run())
    steered = with_(steps=20, kl_coefficient=0.2, kl_target=0.5, kl_gain=1.0, runaway=None)
    held = list(make(llama, steered).run())
    assert held[-1]["kl_coefficient"] > 0.4
    assert held[-1]["kl"] < 0.6 * free[-1]["kl"]


def test_training_ends_when_kl_runs_away(llama):
    ppo = make(llama, with_(steps=8, kl_target=0.01, runaway=2.0))
    metrics = list(ppo.run())
    assert len(metrics) < 8
    assert ppo.stopped
    assert [one["stopped"] for one in metrics] == [0] * (len(metrics) - 1) + [1]
    assert ppo.step == len(metrics) - 1
    assert metrics[-1]["kl"] > 0.02
    assert list(ppo.run()) == []


def test_updates_end_when_the_policy_has_left_the_one_that_wrote(llama):
    # nothing has moved at the first minibatch, the second sees it
    (metrics,) = make(llama, with_(steps=1, epochs=4, update_kl=1e-6)).run()
    assert metrics["updates"] == 2


def test_an_answer_that_is_cut_gets_its_own_reward(llama):
    (metrics,) = make(llama, with_(steps=1, max_new_tokens=1, unfinished_reward=-5.0)).run()
    cut = metrics["unfinished"]
    assert cut > 0.5
    assert metrics["reward"] == pytest.approx(-5 * cut)


def test_rewards_know_the_prompts(llama):
    seen = []

    def reward(texts, rows):
        seen.extend(rows)
        return [0.0] * len(texts)

    list(make(llama, with_(steps=3, batch_size=4), reward).run())
    # 12 answers to 6 prompts: each twice, once in each half
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_many_processes_answer_what_one_does():
    rows, seeds = batch_rows(3, 8, 6, seed=1)
    shares = [batch_rows(3, 8, 6, 1, process, 2) for process in range(2)]
    assert [shares[at % 2][0][at // 2] for at in range(8)] == rows
    assert [shares[at % 2][1][at // 2] for at in range(8)] == seeds
    assert len({*seeds, *batch_rows(4, 8, 6, seed=1)[1]}) == 16


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda texts, rows: [1.0], "got 1 numbers"),
        (lambda texts, rows: [float("nan")] * len(texts), "got nan among them"),
        (lambda texts, rows: [float("inf")] * len(texts), "got inf among them"),
    ],
)
def test_bad_rewards(llama, reward, message):
    with pytest.raises(BadInput, match=message):
        make(llama, TOY, reward).train_step()


def test_no_prompts(policy, llama):
    with pytest.raises(BadInput):
        PPO(policy, PolicySampler(policy.decoder, llama), [], count_e, TOY, Accelerator(cpu=True))


def test_every_metric_is_named(llama):
    first, second = (set(one) for one in make(llama, with_(steps=2)).run())
    assert first == second
    text = f"{on_policy.__doc__}{ppo_module.__doc__}"
    assert {name for name in first if f"``{name}``" not in text} == set()
