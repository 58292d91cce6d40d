"""The terms of PPO and RLSO as pure functions of tensors.

Shapes: ``(B, T)``, a row an answer, a column a token. ``mask`` is true where there is a token; what stands elsewhere
(padding on either side) has no influence on any result and gets no gradient. A loss is the mean over the tokens.

Papers: PPO https://arxiv.org/abs/1707.06347, GAE https://arxiv.org/abs/1506.02438, RLSO (LangPTune)
https://arxiv.org/abs/2410.18870, the KL estimators http://joschu.net/blog/kl-approx.html.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """The clipped objective, to be minimised, and two statistics of the update; all of shape ``()``."""

    loss: Tensor
    clip_fraction: Tensor
    """Share of the tokens whose ratio lies beyond the clip range."""
    approx_kl: Tensor
    """Mean ``k3`` estimate of KL(old ‖ new), in nats a token."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values under the mask, 0 where there is none: ``(B, T), (B, T) -> ()``."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, add_up: Callable[[Tensor], Tensor] = lambda total: total) -> Tensor:
    """Return ``(x − mean) / √(var + 1e-8)`` over all values under the mask, 0 elsewhere: ``(…), (…) -> (…)``.

    The variance is divided by the number of values. ``add_up`` adds a tensor up over processes, each with a part.
    """
    known = values.masked_fill(~mask, 0)
    count, total = add_up(torch.stack([mask.sum().to(known), known.sum()]))
    mean = total / count.clamp(min=1)
    squares = (values - mean).masked_fill(~mask, 0).square().sum()
    variance = add_up(squares) / count.clamp(min=1)
    return ((values - mean) * torch.rsqrt(variance + 1e-8)).masked_fill(~mask, 0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return advantages and returns by generalised advantage estimation, ``(B, T)`` each, without gradient.

    ``δ_t = r_t + γ V_{t+1} − V_t``, ``A_t = δ_t + γ λ A_{t+1}``, ``R_t = A_t + V_t`` (1506.02438, eqs 11, 16).
    Behind a row's last token V and A are 0: an answer ends there. The tokens of a row must be next to each other.

    ``values`` are V of the state in which each token was chosen; ``gamma`` is the discount, in [0, 1]; ``lam`` 0 is the
    one-step error, 1 the return less V.
    """
    rewards, values = rewards.detach().masked_fill(~mask, 0), values.detach().masked_fill(~mask, 0)
    advantages = torch.zeros_like(rewards)
    later = next_value = rewards.new_zeros(len(rewards))
    for step in reversed(range(rewards.shape[1])):
        delta = rewards[:, step] + gamma * next_value - values[:, step]
        later = (delta + gamma * lam * later).masked_fill(~mask[:, step], 0)
        next_value = values[:, step]
        advantages[:, step] = later
    return advantages, advantages + values


def ppo_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> PolicyLoss:
    """Return ``L = −E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)]``, ``ρ = exp(new − old)`` (1707.06347, eq. 7).

    ``new`` are log-probabilities under the policy, ``old`` those when the answers were written; ``clip`` is ε.
    """
    log_ratio = (new - old.detach()).masked_fill(~mask, 0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    advantages = advantages.detach().masked_fill(~mask, 0)
    loss = masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask)
    with torch.no_grad():
        beyond = masked_mean(((ratio - 1).abs() > clip).to(loss), mask)
        approx_kl = masked_mean(kl_k3(old, new), mask)
    return PolicyLoss(loss, beyond, approx_kl)


def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return ``L = ½ E[max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²)]``: ``(B, T) × 4 -> ()``.

    The worse of the squared errors with and without the clip, as in the implementation of 1707.06347's authors. ``old``
    are the values when the answers were written; ``clip`` is ε.
    """
    new, old, returns = new.masked_fill(~mask, 0), old.detach(), returns.detach()
    clipped = old + (new - old).clamp(-clip, clip)
    worse = torch.maximum((new - returns).square(), (clipped - returns).square())
    return 0.5 * masked_mean(worse, mask)


def rlso_rewards(
    rewards: Tensor,
    kl: Tensor,
    gamma: float,
    *,
    white: bool = True,
    add_up: Callable[[Tensor], Tensor] = lambda total: total,
) -> Tensor:
    """Return ``r ← r − γ (ln π_t(p|D) − ln π_0(p|D))`` (2410.18870, eq. 8), then whitened: ``(…), (…) -> (…)``.

    As in the paper's release the penalty is that of the policy which wrote the answers, so that it has no gradient, and
    comes before whitening: γ (``gamma``) is reward a nat. ``kl`` is ``ln π_t − ln π_0`` of each answer, summed over its
    tokens (k1). A reward of an answer that is not finished has Γ already. ``add_up``: see :func:`whiten`.
    """
    rewards = (rewards - gamma * kl).detach()
    everyone = torch.ones_like(rewards, dtype=torch.bool)
    return whiten(rewards, everyone, add_up=add_up) if white else rewards


def rlso_loss(new: Tensor, old: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """Return ``L = E[(r − r' − (1/η) [ln π(p)/π_t(p) − ln π(p')/π_t(p')])²]``: ``(B, G) × 3 -> ()``.

    The expectation is over prompts and all pairs of a prompt's G answers: the policy's log-ratio to the one that wrote
    them is regressed on their relative reward (2410.18870, eq. 6, where G = 2). With ``e = r − (1/η) ln π/π_t`` a
    pair's error is ``e_i − e_j``, and ``Σ_{i<j} (e_i − e_j)² = G Σ_i (e_i − ē)²``: the mean over the G (G − 1) / 2
    pairs is ``2 / (G − 1)`` times the squared error of centred log-ratios against centred rewards. The release has the
    square of ``[…] − η (r − r')``: this times η², equal at η = 1.

    ``new`` are log-probabilities of whole answers under the policy, a row the answers to a prompt, ``old`` those when
    the answers were written; ``rewards`` are those of :func:`rlso_rewards`; ``eta`` is η: the larger, the further a
    difference of rewards moves the policy.
    """
    error = rewards.detach() - (new - old.detach()) / eta
    centred = error - error.mean(1, keepdim=True)
    return 2 / (new.shape[1] - 1) * centred.square().sum(1).mean()


def kl_controller(coefficient: float, kl: float, target: float | None, gain: float = 0.1) -> float:
    """Return β for the KL of the latest answers: ``e = clip(KL / target − 1, −0.2, 0.2)``, ``β ← β (1 + K e)``.

    Paper: section 2.2 of https://arxiv.org/abs/1909.08593, where K (``gain``) is 0.1. ``target`` is in nats an answer;
    None leaves β as it is.
    """
    return coefficient * (1 + gain * min(max(kl / target - 1, -0.2), 0.2)) if target else coefficient


def kl_k1(policy: Tensor, other: Tensor) -> Tensor:
    """Return ``k1 = log p − log q`` of each token drawn from p; its mean is KL(p ‖ q), a single one may be negative."""
    return policy - other


def kl_k3(policy: Tensor, other: Tensor) -> Tensor:
    """Return ``k3 = (ρ − 1) − log ρ``, ``ρ = q / p``, of each token drawn from p; its mean is KL(p ‖ q)."""
    log_ratio = other - policy
    return torch.expm1(log_ratio) - log_ratio


def entropy(logits: Tensor) -> Tensor:
    """Return ``H = −Σ p log p = log Z − Σ p · logit`` in nats: ``(…, V) -> (…)``; a logit of −∞ counts for nothing."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return ``1 − Var(R − V) / Var(R)`` over the tokens, ``()``: 1 is perfect, 0 no better than a constant.

    0 if the returns are all equal.
    """
    error, variance = (returns - values)[mask].var(correction=0), returns[mask].var(correction=0)
    return 1 - error / variance if variance else torch.zeros_like(variance)
