"""The terms of RLSO against values worked by hand."""

from math import sqrt

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from reclm.profilers.rl.loop import rewards_of
from reclm.profilers.rl.losses import rlso_loss, rlso_rewards
from reclm.profilers.rl.rollout import Rollout

OLD = tensor([[-1.5, -1.0], [-3.0, -2.0]])
NEW = tensor([[-1.0, -2.0], [-3.0, -2.5]])
REWARDS = tensor([[1.0, 0.5], [0.0, 2.0]])


def test_loss_and_gradient():
    new = NEW.clone().requires_grad_()
    loss = rlso_loss(new, OLD, REWARDS, eta=2)
    # r - r' less half of (log-ratio - log-ratio')
    first = (1 - 0.5) - (0.5 - -1.0) / 2
    second = (0 - 2) - (0.0 - -0.5) / 2
    assert_close(loss.detach(), tensor((first**2 + second**2) / 2))
    loss.backward()
    # dL / d log π(p) = (2 / B) residual (-1 / η), and the opposite for p'
    slopes = [2 / 2 * one * -1 / 2 for one in (first, second)]
    assert_close(new.grad, tensor([[one, -one] for one in slopes]))


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_of_more_than_two_answers_all_pairs_count(samples):
    generator = torch.Generator().manual_seed(samples)
    old, new, rewards = torch.randn(3, 4, samples, generator=generator, dtype=torch.float64)
    pairs = [(i, j) for i in range(samples) for j in range(i)]

    def by_pairs(new: torch.Tensor) -> torch.Tensor:
        ratio = new - old
        errors = [(rewards[:, i] - rewards[:, j]) - (ratio[:, i] - ratio[:, j]) / 0.7 for i, j in pairs]
        return torch.stack(errors).square().mean()

    ours, explicit = (new.clone().requires_grad_() for _ in range(2))
    loss, wanted = rlso_loss(ours, old, rewards, 0.7), by_pairs(explicit)
    assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    assert_close(ours.grad, explicit.grad)


def test_equal_rewards_and_equal_policies_have_no_gradient():
    new = OLD.clone().requires_grad_()
    loss = rlso_loss(new, OLD, tensor([[0.7, 0.7], [-2.0, -2.0]]), eta=1)
    loss.backward()
    assert loss == 0
    assert not new.grad.any()


@pytest.mark.parametrize(("rewards", "sign"), [([1.0, 0.0], 1), ([0.0, 1.0], -1)])
def test_a_step_down_makes_the_better_answer_likelier(rewards, sign):
    new = OLD[:1].clone().requires_grad_()
    rlso_loss(new, OLD[:1], tensor([rewards]), eta=1).backward()
    assert torch.equal((-new.grad).sign(), tensor([[sign, -sign]], dtype=torch.float32))


def test_the_same_for_the_answers_in_the_other_order():
    assert_close(rlso_loss(NEW.flip(1), OLD.flip(1), REWARDS.flip(1), 2), rlso_loss(NEW, OLD, REWARDS, 2))


def test_the_least_loss_is_the_papers_closed_form():
    old, rewards, eta = tensor([0.5, 0.3, 0.2]), tensor([1.0, -0.5, 2.0]), 0.7
    # π ∝ π_t exp(η r) (eq. 3), whichever two answers are drawn
    best = (old * (eta * rewards).exp()).log()
    best = (best - best.logsumexp(0)).requires_grad_()
    pairs = tensor([[0, 1], [1, 2], [2, 0], [1, 1]])
    loss = rlso_loss(best[pairs], old.log()[pairs], rewards[pairs], eta)
    assert_close(loss.detach(), tensor(0.0), atol=1e-10, rtol=0)
    loss.backward()
    assert_close(best.grad, torch.zeros(3), atol=1e-6, rtol=0)


def test_neither_old_policy_nor_rewards_get_a_gradient():
    old, rewards, new = (one.clone().requires_grad_() for one in (OLD, REWARDS, NEW))
    rlso_loss(new, old, rlso_rewards(rewards, old, 0.1), eta=1).backward()
    assert new.grad.any()
    assert old.grad is None
    assert rewards.grad is None


def test_gamma_takes_the_kl_from_the_reward():
    rewards, kl = tensor([[1.0, 0.0]]), tensor([[3.0, -1.0]])
    penalised = rlso_rewards(rewards, kl, 0.2, white=False)
    assert_close(penalised, tensor([[1 - 0.2 * 3, 0 + 0.2 * 1]]))
    assert torch.equal(rlso_rewards(rewards, kl, 0.0, white=False), rewards)
    # the first, better answer has left the reference further: at γ = 0.5 it loses
    new = torch.zeros(1, 2, requires_grad=True)
    rlso_loss(new, torch.zeros(1, 2), rlso_rewards(rewards, kl, 0.5, white=False), eta=1).backward()
    # residual (1 - 1.5) - (0 + 0.5) = -1
    assert_close(new.grad, tensor([[2.0, -2.0]]))


def test_whitening_over_all_answers():
    rewards = tensor([[1.0, 2.0], [3.0, 2.0]])
    # mean 2, variance (1 + 0 + 1 + 0) / 4
    wanted = tensor([[-1.0, 0.0], [1.0, 0.0]]) * sqrt(2)
    assert_close(rlso_rewards(rewards, torch.zeros(2, 2), 0.2), wanted)
    assert_close(rlso_rewards(5 * rewards - 7, torch.zeros(2, 2), 0.2), wanted)
    loss = rlso_loss(torch.zeros(2, 2), torch.zeros(2, 2), wanted, eta=1)
    assert_close(loss, tensor((sqrt(2) ** 2 + sqrt(2) ** 2) / 2))


def test_the_penalty_comes_before_whitening():
    rewards, kl = tensor([[4.0, 0.0]]), tensor([[2.0, 6.0]])
    # 4 - 0.5 * 2 = 3 and 0 - 0.5 * 6 = -3: mean 0, variance 9
    assert_close(rlso_rewards(rewards, kl, 0.5), tensor([[1.0, -1.0]]))


def test_whitening_of_equal_rewards_is_no_reward():
    assert not rlso_rewards(torch.full((2, 2), 0.3), torch.zeros(2, 2), 0.2).any()


def test_an_unfinished_answer_is_worth_gamma():
    rollout = Rollout.build([[1]] * 4, [[5]] * 4, [True, False, False, True], ["a", "b", "c", "d"])
    rewards = rewards_of(lambda texts, rows: [0.9, 0.9, 0.1, 0.1], rollout, [0, 0, 1, 1], unfinished=0.5)
    assert_close(rewards, tensor([0.9, 0.5, 0.5, 0.1]))
    loss = rlso_loss(torch.zeros(2, 2), torch.zeros(2, 2), rewards.view(2, 2), eta=1)
    assert_close(loss, tensor(((0.9 - 0.5) ** 2 + (0.5 - 0.1) ** 2) / 2))
