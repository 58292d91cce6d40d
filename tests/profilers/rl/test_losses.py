"""The terms of PPO against values worked by hand."""

from math import exp, inf, log, nan, sqrt

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from reclm.profilers.rl.losses import (
    entropy,
    explained_variance,
    gae,
    kl_controller,
    kl_k1,
    kl_k3,
    masked_mean,
    ppo_policy_loss,
    value_loss,
    whiten,
)

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_gae():
    rewards, values = tensor([[1.0, 0.0, 2.0]]), tensor([[0.5, 1.0, 0.25]])
    advantages, returns = gae(rewards, values, ALL, gamma=0.9, lam=0.8)
    third = 2 - 0.25
    second = (0 + 0.9 * 0.25 - 1) + 0.9 * 0.8 * third
    first = (1 + 0.9 * 1 - 0.5) + 0.9 * 0.8 * second
    assert_close(advantages, tensor([[first, second, third]]))
    assert_close(returns, tensor([[first + 0.5, second + 1, third + 0.25]]))


def test_gae_with_lambda_one_is_what_is_still_to_come_less_the_value():
    rewards, values = tensor([[1.0, 0.0, 2.0]]), tensor([[0.5, 1.0, 0.25]])
    advantages, returns = gae(rewards, values, ALL, gamma=1, lam=1)
    assert_close(returns, tensor([[3.0, 2.0, 2.0]]))
    assert_close(advantages, tensor([[2.5, 1.0, 1.75]]))


def test_gae_with_lambda_zero_is_the_error_of_one_step():
    rewards, values = tensor([[1.0, 0.0, 2.0]]), tensor([[0.5, 1.0, 0.25]])
    advantages, _ = gae(rewards, values, ALL, gamma=1, lam=0)
    assert_close(advantages, tensor([[1 + 1 - 0.5, 0 + 0.25 - 1, 2 - 0.25]]))


def test_gae_does_not_see_padding_on_either_side():
    rewards, values = tensor([[1.0, 0.0, 2.0]]), tensor([[0.5, 1.0, 0.25]])
    wanted, _ = gae(rewards, values, ALL, gamma=0.9, lam=0.8)
    for left, right in ((0, 2), (2, 0), (1, 1)):
        first, second = (torch.nn.functional.pad(one, (left, right), value=nan) for one in (rewards, values))
        mask = torch.nn.functional.pad(ALL, (left, right))
        advantages, returns = gae(first, second, mask, gamma=0.9, lam=0.8)
        assert torch.equal(advantages[mask], wanted[0])
        assert not advantages[~mask].any()
        assert not returns[~mask].any()


def test_gae_of_rows_of_unlike_length_and_of_an_empty_one():
    rewards = tensor([[1.0, 1.0], [5.0, 7.0], [9.0, 9.0]])
    mask = tensor([[True, True], [True, False], [False, False]])
    _, returns = gae(rewards, torch.zeros(3, 2), mask, gamma=1, lam=1)
    assert_close(returns, tensor([[2.0, 1.0], [5.0, 0.0], [0.0, 0.0]]))


def test_policy_loss():
    ratios = tensor([[1.5, 0.5, 1.1, 1.5]])
    advantages = tensor([[1.0, -1.0, 2.0, -1.0]])
    old = tensor([[-1.0, -2.0, -3.0, -1.5]])
    new = (old + ratios.log()).requires_grad_()
    result = ppo_policy_loss(new, old, advantages, torch.ones(1, 4, dtype=torch.bool), clip=0.2)
    # what clipping takes away: 1.5 counts as 1.2; -0.5 as -0.8; 2.2 and -1.5 stand
    assert_close(result.loss, tensor(-(1.2 - 0.8 + 2.2 - 1.5) / 4))
    assert_close(result.clip_fraction, tensor(3 / 4))
    apart = [(ratio - 1) - log(ratio) for ratio in (1.5, 0.5, 1.1, 1.5)]
    assert_close(result.approx_kl, tensor(sum(apart) / 4))
    result.loss.backward()
    # d ρ / d log π = ρ; none where the clip holds
    assert_close(new.grad, tensor([[0.0, 0.0, -1.1 * 2 / 4, 1.5 / 4]]))


def test_policy_loss_before_an_update_has_the_gradient_of_reinforce():
    new = tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    advantages = tensor([[1.0, -2.0, 3.0]])
    result = ppo_policy_loss(new, new.detach(), advantages, ALL, clip=0.2)
    result.loss.backward()
    assert_close(result.loss.detach(), -advantages.mean())
    assert_close(new.grad, -advantages / 3)
    assert result.clip_fraction == 0
    assert result.approx_kl == 0


def test_padding_has_neither_influence_nor_gradient():
    mask = tensor([[False, True, True, False]])
    new = tensor([[nan, -1.0, -2.0, inf]], requires_grad=True)
    old = tensor([[-inf, -1.1, -1.9, nan]])
    advantages = tensor([[nan, 1.0, -1.0, nan]])
    inner = slice(1, 3)
    loss = ppo_policy_loss(new, old, advantages, mask, clip=0.2).loss
    short = ppo_policy_loss(new[:, inner], old[:, inner], advantages[:, inner], mask[:, inner], clip=0.2).loss
    assert_close(loss, short)
    (loss + value_loss(new, old, advantages, mask, clip=0.2)).backward()
    assert new.grad.isfinite().all()
    assert not new.grad[~mask].any()
    assert new.grad[mask].all()


def test_value_loss():
    new = tensor([[2.0, 1.1]], requires_grad=True)
    loss = value_loss(new, tensor([[1.0, 1.0]]), tensor([[3.0, 3.0]]), ALL[:, :2], clip=0.2)
    # the first went from 1 to 2, clipped to 1.2: (1.2 - 3)² is worse than (2 - 3)²
    assert_close(loss.detach(), tensor(0.5 * ((1.2 - 3) ** 2 + (1.1 - 3) ** 2) / 2))
    loss.backward()
    assert_close(new.grad, tensor([[0.0, 0.5 * 2 * (1.1 - 3) / 2]]))


def test_kl_estimators():
    policy, other = tensor([0.5]).log(), tensor([0.25]).log()
    assert_close(kl_k1(policy, other), tensor([log(2)]))
    assert_close(kl_k3(policy, other), tensor([0.25 / 0.5 - 1 - log(0.25 / 0.5)]))
    assert kl_k1(other, policy) < 0 < kl_k3(other, policy)


def test_kl_estimators_have_the_kl_as_their_mean():
    policy, other = tensor([0.5, 0.3, 0.2]), tensor([0.25, 0.25, 0.5])
    kl = 0.5 * log(0.5 / 0.25) + 0.3 * log(0.3 / 0.25) + 0.2 * log(0.2 / 0.5)
    for estimator in (kl_k1, kl_k3):
        assert_close((policy * estimator(policy.log(), other.log())).sum(), tensor(kl))


def test_whiten():
    values, mask = tensor([[nan, 1.0, 2.0, 3.0, 9.0]]), tensor([[False, True, True, True, False]])
    # variance (1 + 0 + 1) / 3
    unit = sqrt(3 / 2)
    assert_close(whiten(values, mask), tensor([[0, -unit, 0, unit, 0]]))


def test_whiten_of_equal_values_and_of_none():
    assert not whiten(tensor([[4.0, 4.0, 4.0]]), ALL).any()
    assert not whiten(tensor([[4.0, 4.0, 4.0]]), ~ALL).any()


def test_whiten_over_two_processes():
    # the other one holds the value 3: first its count and total are added, then its squared distance from the mean
    elsewhere = iter([tensor([1.0, 3.0]), tensor((3.0 - 2.0) ** 2)])
    here = whiten(tensor([[1.0, 2.0]]), ALL[:, :2], add_up=lambda total: total + next(elsewhere))
    assert_close(here, tensor([[-sqrt(3 / 2), 0.0]]))


def test_entropy():
    logits = tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log() + 7
    assert_close(entropy(logits), tensor([0.5 * log(2) + 0.5 * log(4), 0.0]))
    assert_close(entropy(torch.zeros(4, 10)), torch.full((4,), log(10)))


def test_masked_mean():
    assert masked_mean(tensor([[1.0, 3.0, nan]]), tensor([[True, True, False]])) == 2
    assert masked_mean(tensor([[1.0, 3.0, nan]]), ~ALL) == 0


def test_explained_variance():
    returns = tensor([[1.0, 2.0, 3.0]])
    # errors 0, 0, 1 with variance 2/9; returns with variance 2/3
    assert_close(explained_variance(tensor([[1.0, 2.0, 2.0]]), returns, ALL), tensor(1 - (2 / 9) / (2 / 3)))
    assert explained_variance(returns, returns, ALL) == 1
    assert explained_variance(torch.zeros(1, 3), returns, ALL) == 0
    assert explained_variance(returns, torch.ones(1, 3), ALL) == 0


def test_the_controller_turns_at_the_target():
    assert kl_controller(0.2, 6, target=6) == 0.2
    assert kl_controller(0.2, 6 * 1.05, target=6, gain=0.1) == pytest.approx(0.2 * (1 + 0.1 * 0.05))
    assert kl_controller(0.2, 600, target=6, gain=0.1) == pytest.approx(0.2 * (1 + 0.1 * 0.2))
    assert kl_controller(0.2, -3, target=6, gain=0.1) == pytest.approx(0.2 * (1 - 0.1 * 0.2))


def test_the_controller_without_a_target_changes_nothing():
    assert kl_controller(0.2, exp(5), target=None) == 0.2
