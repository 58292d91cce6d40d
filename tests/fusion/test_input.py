"""Input that cannot be augmented is refused, and gaps are reported."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import DIM, EVERYONE, ITEMS, MF, USERS, Joint, augment, augmented, mlp_of
from torch import nn
from torch.nn.utils import parametrize

from reclm.data.dataset import Dataset
from reclm.errors import BadInput, ReclmError
from reclm.profiles.matrix import ProfileMatrix


@pytest.mark.parametrize(
    ("missing", "said"), [("zeros", "fused with zeros in its place"), ("plain", "stay as they are")]
)
def test_half_of_the_users_without_profile_are_counted_and_reported(
    matrices: Any, missing: Any, said: str
) -> None:
    matrices["user"].present[1::2] = False
    model = MF()
    with pytest.warns(UserWarning, match=f"12 of 24 users have a profile; 12 without .*{said}"):
        handle = augment(model, matrices, missing=missing)
    counted = handle.coverage[0]
    assert (counted.with_profile, counted.without, counted.missing) == (12, 12, missing)
    assert str(handle).splitlines()[1] == "item_embedding: 20 of 20 items have a profile"
    table, base = model.user_embedding.weight, MF().user_embedding.weight
    if missing == "plain":
        assert torch.equal(table[1::2], base[1::2])
    else:
        mlp = mlp_of(model)
        torch.testing.assert_close(table[1::2], mlp.fuse(base[1::2], torch.zeros(12, DIM)))
    assert not torch.equal(table[::2], base[::2])
    torch.testing.assert_close(model.user_embedding(EVERYONE[:3]), table[:3])


def test_complete_profiles_are_no_matter_for_a_warning(matrices: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = augment(MF(), matrices, missing="error")
    assert len(handle.coverage) == 2


def test_importing_reclm_stays_light() -> None:
    code = "import sys, reclm; assert 'torch' not in sys.modules; print(reclm.augment.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "augment"


def tied() -> nn.Module:
    model = MF()
    model.out = nn.Linear(DIM, ITEMS)
    model.out.weight = model.item_embedding.weight
    return model


def parametrized() -> nn.Module:
    model = MF()
    parametrize.register_parametrization(model.item_embedding, "weight", nn.Identity())
    return model


BAD: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "no such attribute": (
        MF,
        {"users": "user_emb"},
        r"MF has no 'user_emb'; its embeddings: user_embedding \(24 × 8\), item_embedding \(20 × 8\)$",
    ),
    "no such path": (Joint, {"users": "encoder.edges"}, r"encoder\.nodes \(47 × 8\)$"),
    "no embedding at all": (lambda: nn.Linear(1, 1), {}, "Linear has no 'user_embedding'.*: none$"),
    "not an embedding": (Joint, {"users": "encoder"}, "Joint has a ModuleDict as 'encoder'"),
    "too few rows": (
        lambda: nn.ModuleDict({"user_embedding": nn.Embedding(9, 2)}),
        {"items": None},
        "'user_embedding' has 9 rows for 24 users; build",
    ),
    "too many rows": (
        lambda: MF(1),
        {},
        r"'item_embedding' has 21 rows for 20 items; .* item_ids=, .* np.arange\(20\) \+ 1",
    ),
    "max_norm": (lambda: MF(max_norm=1.0), {}, "'item_embedding' of MF has max_norm=1, .* without max_norm"),
    "tied": (tied, {}, "'item_embedding' of MF shares its weight with 'out.weight'"),
    "parametrized": (parametrized, {}, "'item_embedding' of MF is augmented, or parametrized, already"),
    "padding": (
        lambda: MF(1),
        {"item_rows": np.arange(ITEMS)},
        "row 0 of embedding 'item_embedding' is padding and cannot be that of item 0",
    ),
    "rows outside": (MF, {"item_rows": np.arange(ITEMS) + 1}, "item_rows name row 20; .* 0 to 19"),
    "rows twice": (MF, {"item_rows": np.zeros(ITEMS, int)}, "item_rows name row 0 twice"),
    "rows of the wrong number": (MF, {"item_rows": np.arange(5)}, "item_rows has 5 entries for 20 items"),
    "rows of floats": (MF, {"item_rows": np.arange(20.0)}, "one dimension of integers, not float64"),
    "rows shared": (
        Joint,
        {
            "users": "encoder.nodes",
            "items": "encoder.nodes",
            "user_rows": Joint.user_rows,
            "item_rows": Joint.item_rows + 2,
        },
        "row 22 of embedding 'encoder.nodes' is given to a user and to an item",
    ),
    "nothing": (MF, {"items": None, "users": None}, "nothing to augment"),
    "missing": (MF, {"missing": "zero"}, "unknown missing= 'zero'; did you mean 'zeros'"),
    "cold": (MF, {"cold": "cold"}, "unknown cold= 'cold'.*text"),
    "cold without a data set": (MF, {"cold": "text"}, "give data="),
    "ids without a data set": (MF, {"item_ids": [*"abcdefghijklmnopqrst"]}, "give data="),
    "cold of no kind": (MF, {"cold": {"items": np.arange(2)}}, "unknown kind of cold rows 'items'"),
    "cold outside": (MF, {"cold": {"item": np.array([-1])}}, "cold item rows name row -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_the_model_alone(matrices: Any, case: str) -> None:
    make, options, message = BAD[case]
    model = make()
    before = list(model.state_dict())
    with pytest.raises(ReclmError, match=message) as caught:
        augment(model, matrices, **options)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == before


def test_bad_profiles(matrices: Any, small: Dataset) -> None:
    def refuses(message: str, given: Any, **options: Any) -> None:
        with pytest.raises(ReclmError, match=message):
            augment(MF(), given, **options)

    refuses(
        "no item of the data set has a profile; .* items=None",
        {**matrices, "item": ProfileMatrix(matrices["item"].vectors, np.zeros(ITEMS, bool))},
    )
    refuses("unknown kind of profiles 'users'", {"users": matrices["user"]})
    nobody = ProfileMatrix(matrices["user"].vectors, np.zeros(USERS, bool))
    refuses("no user of the data set has a profile", {**matrices, "user": nobody})
    short = ProfileMatrix(matrices["user"].vectors[:9], matrices["user"].present[:9])
    refuses("user profiles have 9 rows, the data set 24 users", {**matrices, "user": short}, data=small)
    matrices["item"].present[[3, 5]] = False
    refuses("2 of 20 items have no profile, e.g. 3, 5; .*missing='zeros'", matrices, missing="error")
    refuses("e.g. i3, i5; write", matrices, missing="error", data=small)
    matrices["item"].vectors[4, 0] = np.nan
    refuses("item profiles are not finite in row 4", matrices)


def test_augmenting_twice_is_an_error(matrices: Any) -> None:
    model = augmented(matrices)
    with pytest.raises(BadInput, match=r"reclm\.remove\(model\)"):
        augment(model, matrices)


def test_bad_ids(matrices: Any, small: Dataset) -> None:
    ids = small.items.ids()
    for given, value in (([*ids[:19], ids[0]], ids[0]), (ids[:5], 5), (["nobody"] * 20, None)):
        with pytest.raises(BadInput) as error:
            augment(MF(), matrices, data=small, item_ids=given)
        assert error.value.value == value
    matrices["item"].present[-1] = False
    with pytest.raises(BadInput, match="1 of 20 items"):
        augment(MF(), matrices, data=small, cold="error")
    matrices["item"].present[-1] = True
    matrices["item"].present[0] = False
    with pytest.warns(UserWarning, match="1 without"):
        augment(MF(), matrices, data=small, cold="error")


def test_ids_go_by_their_order_whatever_the_labels_of_a_series(matrices: Any, small: Dataset) -> None:
    shuffled = pd.Series(small.users.ids()).sample(frac=1, random_state=0)
    listed, labelled = MF(), MF()
    for model, ids in ((listed, shuffled.tolist()), (labelled, shuffled)):
        augment(model, {"user": matrices["user"]}, user_ids=ids, data=small)
    assert torch.equal(labelled.user_embedding.weight, listed.user_embedding.weight)
    with pytest.raises(BadInput) as error:
        augment(MF(), matrices, user_ids=shuffled, user_rows=EVERYONE.numpy(), data=small)
    assert error.value.where == "user_rows"
