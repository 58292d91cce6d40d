"""Invariants of the fusion and its adapter."""

import numpy as np
import torch
from torch.nn import functional as F

from reclm.fusion.dual_mlp import DualMLP, ProfileFusion
from reclm.profiles.matrix import ProfileMatrix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(
    n: int = 6, missing: int | None = None, *, normalize: bool = True
) -> tuple[ProfileFusion, torch.Tensor]:
    vectors = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    vectors[3] = vectors[1]  # two equal profiles
    present = np.ones(n, bool)
    if missing is not None:
        present[missing] = False
    mlp = DualMLP(5, 4, generator=generator())
    return ProfileFusion(ProfileMatrix(vectors, present), mlp, normalize=normalize), torch.from_numpy(vectors)


def test_fuses_as_the_equation_says() -> None:
    adapter, vectors = make()
    base = torch.randn(6, 4, generator=generator(1))
    weight_1, bias_1, weight_2, bias_2 = adapter.mlp.t_pro.parameters()
    encoded = F.relu(vectors @ weight_1.T + bias_1) @ weight_2.T + bias_2
    encoded = encoded / encoded.norm(dim=1, keepdim=True)
    expected = torch.relu(torch.cat([base, encoded], 1) @ adapter.mlp.psi.weight.T + adapter.mlp.psi.bias)
    torch.testing.assert_close(adapter(base), expected)


def test_equal_profiles_are_kept_once_and_some_rows_equal_all_rows() -> None:
    adapter, _ = make()
    assert adapter.vectors.shape == (5, 5)
    base = torch.randn(6, 4, generator=generator(1))
    for rows in (torch.tensor([4]), torch.tensor([3, 1, 1, 0]), torch.tensor([5, 4, 3, 2, 1, 0, 0, 1])):
        torch.testing.assert_close(adapter(base[rows], rows), adapter(base)[rows])


def test_a_missing_profile_contributes_nothing_whatever_stands_in_its_row() -> None:
    adapter, _ = make(missing=2)
    base = torch.randn(6, 4, generator=generator(1))
    zero = torch.relu(torch.cat([base[2], torch.zeros(4)]) @ adapter.mlp.psi.weight.T + adapter.mlp.psi.bias)
    torch.testing.assert_close(adapter(base)[2], zero)
    for rows in (torch.tensor([2]), torch.tensor([4, 2, 4]), torch.tensor([5, 2])):
        torch.testing.assert_close(adapter(base[rows], rows), adapter(base)[rows])


def test_no_profile_at_all() -> None:
    profiles = ProfileMatrix(np.zeros((3, 5), np.float32), np.zeros(3, bool))
    adapter = ProfileFusion(profiles, DualMLP(5, 4, generator=generator()), normalize=True)
    base = torch.randn(3, 4, generator=generator(1))
    bare = torch.relu(base @ adapter.mlp.psi.weight[:, :4].T + adapter.mlp.psi.bias)
    torch.testing.assert_close(adapter(base), bare)
    torch.testing.assert_close(adapter(base[[1]], torch.tensor([1])), bare[[1]])


def test_gradients_reach_both_mlps() -> None:
    adapter, _ = make()
    adapter(torch.randn(6, 4, generator=generator(1))).sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_initial_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = DualMLP(5, 4, generator=generator(7)).state_dict()
    torch.manual_seed(2)
    second = DualMLP(5, 4, generator=generator(7)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
