"""An augmented model baked, restored, copied, saved."""

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from made import EVERYTHING, ITEMS, MF, TEXT, augment, augmented
from torch import nn

import reclm
from reclm.errors import BadInput
from reclm.fusion.augment import Augmented


def test_baked_is_a_plain_embedding_that_scores_the_same(matrices: Any) -> None:
    model = MF(offset=1).eval()
    augment(model, matrices, item_rows=np.arange(ITEMS) + 1, dropout=0.5)
    expected = model.scores()
    Augmented(model).enabled = False  # what is baked is the fused table all the same
    model.train()
    assert reclm.remove(model) is model
    torch.testing.assert_close(model.scores(), expected, rtol=0, atol=1e-6)
    assert [type(model.user_embedding), type(model.item_embedding)] == [nn.Embedding, nn.Embedding]
    assert list(model.state_dict()) == list(MF(1).state_dict())
    assert model.item_embedding.weight.requires_grad
    assert model.item_embedding.padding_idx == 0
    MF(1).load_state_dict(model.state_dict())
    assert not hasattr(model.user_embedding, "parametrizations")
    torch.save(model, io.BytesIO())  # an augmented one cannot be pickled whole
    with pytest.raises(BadInput, match="MF is not augmented"):
        reclm.remove(model)


def test_a_handle_of_a_plain_model_removes_nothing(matrices: Any) -> None:
    handle = augment(MF(), matrices)
    handle.remove()
    with pytest.raises(BadInput):
        handle.remove()


def test_removed_without_baking_is_the_model_as_it_was(matrices: Any) -> None:
    model = augmented(matrices)
    reclm.remove(model, bake=False)
    plain = MF()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    augment(model, matrices)  # and can be augmented again
    assert not torch.equal(model.scores(), plain.scores())


def test_a_copy_is_a_model_of_its_own(matrices: Any) -> None:
    model = augmented(matrices)
    expected = model.scores().detach()
    copied = copy.deepcopy(model)
    assert torch.equal(copied.scores(), expected)
    with Augmented(copied).off():
        assert torch.equal(model.scores(), expected)
    reclm.remove(copied)
    torch.testing.assert_close(copied.scores(), expected)
    assert torch.equal(model.scores(), expected)
    torch.testing.assert_close(model(EVERYTHING, EVERYTHING), expected.diagonal())
    reclm.remove(model, bake=False)
    assert torch.equal(model.scores(), MF().scores())


def test_a_state_dict_returns_into_a_freshly_augmented_model(matrices: Any) -> None:
    model = augmented(matrices, residual=True)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = MF()
    augment(fresh, matrices, residual=True)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.scores(), model.scores())
    assert not any(TEXT in value.shape and len(value) >= ITEMS for value in model.state_dict().values())
