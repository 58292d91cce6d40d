"""Contrastive learning: the loss against values by hand and sentence-transformers', a step by hand, checkpoints."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor

from reclm.errors import BadInput, Damaged
from reclm.profilers.langptune.config import ContrastiveConfig
from reclm.profilers.langptune.recommender import Contrastive, contrastive_loss
from reclm.text.encoder import TextEncoder

PROFILES = ["the user likes jazz", "loud games", "the user likes tea music", "quiet tea"]
TEXTS = ["old jazz", "loud chess", "warm tea", "quiet tea"]
IDX = np.array([3, 1, 8, 2])


def random(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_loss_by_hand():
    profiles, items = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[3.0, 0], [1, 1]])
    half = math.exp(math.sqrt(0.5) / 0.5)
    own, other = -math.log(math.exp(2) / (math.exp(2) + half)), -math.log(half / (1 + half))
    loss = contrastive_loss(
        profiles, items, torch.arange(2), torch.tensor([[4], [9]]), torch.tensor([4, 9]), 0.5
    )
    assert loss.item() == pytest.approx((own + other) / 2)


def test_popularity_is_taken_off_by_hand():
    profiles, items = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[3.0, 0], [1, 1]])
    # cosines 1 and √½, 0 and √½; the first item is three times as frequent as the second
    first = math.exp(2) / 3 / (math.exp(2) / 3 + math.exp(math.sqrt(2)))
    second = math.exp(math.sqrt(2)) / (1 / 3 + math.exp(math.sqrt(2)))
    idx = torch.tensor([4, 9])
    loss = contrastive_loss(
        profiles, items, torch.arange(2), idx[:, None], idx, 0.5, torch.tensor([6.0, 2.0]).log()
    )
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2)


def test_where_no_item_repeats_it_is_that_of_sentence_transformers():
    profiles, items = random(6, 5), random(6, 5, seed=1)
    model: Any = torch.nn.Identity()
    other: Any = MultipleNegativesRankingLoss(model, scale=1 / 0.1)
    wanted = other.compute_loss_from_embeddings([profiles, items], None)
    idx = torch.arange(6)
    torch.testing.assert_close(contrastive_loss(profiles, items, idx, idx[:, None], idx, 0.1), wanted)


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        # the items of the batch that each profile is set against, its own among them
        ([[7], [5], [7], [3]], [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]),
        ([[7, 3], [5, 9], [5, 7], [3, 7]], [[0, 1], [0, 1, 2, 3], [2, 3], [1, 3]]),
    ],
)
def test_what_a_user_chose_next_is_no_negative(chosen: list[list[int]], left: list[list[int]]):
    profiles, items, idx = random(4, 5), random(4, 5, seed=1), torch.tensor([7, 5, 7, 3])
    alone = []
    for row, kept in enumerate(left):
        place = torch.tensor([kept.index(row)])
        # no two items are equal here
        alone.append(
            contrastive_loss(profiles[[row]], items[kept], place, place[None], torch.arange(len(kept)), 0.2)
        )
    loss = contrastive_loss(profiles, items, torch.arange(4), torch.tensor(chosen), idx, 0.2)
    torch.testing.assert_close(loss, torch.stack(alone).mean())


def test_nothing_is_learned_from_a_batch_of_one_item():
    profiles, items, idx = random(4, 5).requires_grad_(), random(1, 5, seed=1), torch.tensor([7] * 4)
    same = contrastive_loss(profiles, items.expand(4, -1), torch.arange(4), idx[:, None], idx, 0.2)
    same.backward()
    assert (same.item(), profiles.grad.abs().max().item()) == (0, 0)


def test_the_gradient():
    profiles, items = random(3, 4, dtype=torch.float64), random(5, 4, seed=1, dtype=torch.float64)
    inputs = (profiles.requires_grad_(), items.requires_grad_())
    own, idx = torch.tensor([2, 0, 4]), torch.tensor([1, 2, 3, 3, 1])
    chosen = torch.tensor([[3, 9], [1, 2], [1, 9]])
    assert torch.autograd.gradcheck(
        lambda one, other: contrastive_loss(one, other, own, chosen, idx, 0.3), inputs
    )


def learner(place, steps: int = 4, counts: np.ndarray | None = None, **changes: Any) -> Contrastive:
    options = {"steps": steps, "batch_size": 4, "temperature": 0.2, "weight_decay": 0.1, **changes}
    encoder = TextEncoder(place.encoder.source, "cpu").model
    return Contrastive(encoder, ContrastiveConfig(**options), 1e-2, counts=counts)


def words(model: Contrastive) -> Tensor:
    """The table of word vectors, which is all that the encoder has."""
    (weights,) = model.parameters
    return weights


def test_a_step_by_hand(place):
    model = learner(place, max_gradient_norm=0.01)
    before = words(model).detach().clone().requires_grad_()
    metrics = model.train_step(PROFILES, TEXTS, IDX)

    tokenizer = model.encoder.tokenizer
    ours, theirs = (
        torch.stack([before[tokenizer.encode(text).ids].mean(0) for text in texts])
        for texts in (PROFILES, TEXTS)
    )
    cosines = ours @ theirs.T / ours.norm(dim=1, keepdim=True) / theirs.norm(dim=1)
    loss = -(cosines / 0.2).log_softmax(1).diagonal().mean()
    loss.backward()
    assert before.grad is not None
    assert before.grad.norm() > 0.1
    gradient = before.grad * 0.01 / before.grad.norm()
    # of AdamW's first step, both means are the gradient's own
    wanted = before.detach() * (1 - 1e-2 * 0.1) - 1e-2 * gradient / (gradient.abs() + 1e-8)
    # far below ε, a float's rounding shows
    firm = (gradient.abs() > 1e-6) | (gradient == 0)
    torch.testing.assert_close(words(model)[firm], wanted[firm], atol=1e-5, rtol=1e-4)
    assert metrics["loss"] == pytest.approx(loss.item())
    assert metrics["accuracy"] == (cosines.argmax(1) == torch.arange(4)).float().mean()
    assert metrics["update_tokens"] == sum(len(one.split()) for one in PROFILES + TEXTS)


def test_the_nearest_of_equal_items_is_right(place):
    metrics = learner(place).train_step(["jazz", "tea", "tea"], ["jazz", "tea", "tea"], np.array([0, 2, 2]))
    assert metrics["accuracy"] == 1


def test_the_rate_falls_along_a_line(place):
    model = learner(place)
    rates = [model.train_step(PROFILES, TEXTS, IDX)["learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def batches(model: Contrastive, steps: range) -> list[dict[str, float]]:
    """Steps on batches in other orders; their metrics without times."""
    found = []
    for step in steps:
        order = np.roll(np.arange(4), step)
        pairs = [PROFILES[at] for at in np.arange(4)], [TEXTS[at] for at in order]
        found.append(model.train_step(*pairs, IDX[order]))
    return [{name: one for name, one in row.items() if "seconds" not in name} for row in found]


def test_a_resumed_run_is_the_unbroken_one(place, tmp_path):
    model = learner(place)
    assert not model.resume(tmp_path)
    batches(model, range(1))
    model.save(tmp_path)
    batches(model, range(1, 2))
    model.save(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["step-000002"]
    wanted = batches(model, range(2, 4))

    (tmp_path / "step-000003.partial").mkdir()
    resumed = learner(place)
    assert resumed.resume(tmp_path)
    assert resumed.step == 2
    assert batches(resumed, range(2, 4)) == wanted
    assert torch.equal(words(resumed), words(model))


@pytest.mark.parametrize("name", ["encoder.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_is_one_line(place, tmp_path, name):
    model = learner(place)
    model.save(tmp_path)
    file = tmp_path / "step-000000" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    words = r"the checkpoint .*step-000000 is damaged; delete it to go on from the one before \("
    with pytest.raises(Damaged, match=words) as raised:
        learner(place).resume(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_batch_must_be_shared_evenly(place):
    accelerator: Any = SimpleNamespace(num_processes=3)
    with pytest.raises(BadInput, match=r"cl.batch_size = 4 cannot be shared evenly by 3 processes"):
        Contrastive(place.encoder.model, ContrastiveConfig(batch_size=4), 1e-2, accelerator)


def test_frequencies_are_those_of_the_items_of_the_batch(place):
    counts = np.array([0, 1, 0, 2, 9, 9, 9, 9, 5])
    off = learner(place).train_step(PROFILES, TEXTS, IDX)["loss"]
    corrected = learner(place, counts=counts, correct_popularity=True)
    plain = learner(place, counts=counts)
    with torch.no_grad():
        (ours, _), (theirs, _) = corrected._embed(PROFILES), corrected._embed(TEXTS)
    idx = torch.from_numpy(IDX)
    frequency = torch.tensor([2.0, 1, 5, 1]).log()  # of items 3, 1, 8 and 1
    wanted = contrastive_loss(ours, theirs, torch.arange(4), idx[:, None], idx, 0.2, frequency).item()
    assert corrected.train_step(PROFILES, TEXTS, IDX)["loss"] == pytest.approx(wanted)
    assert plain.train_step(PROFILES, TEXTS, IDX)["loss"] == pytest.approx(off)
    assert wanted != pytest.approx(off)
