"""The best items for users trained on and new."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from reclm import plugins
from reclm.data.dataset import Interactions
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, ReclmError
from reclm.recommend.embedding import EmbeddingBackbone
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.recommender import Recommender
from reclm.recommend.serve import NewItems, encode_profiles

from .conftest import AUGMENTED, DATA, PLAIN, Parity

Make = Callable[..., Recommender]
NEW = NewItems(
    IdMap(["n1", "n2"], "item"), pa.table({"title": ["even calm blue water z", "odd loud red fire z"]})
)


def ids(frame: pd.DataFrame) -> list[str]:
    return frame["item"].tolist()


@pytest.mark.parametrize("name", plugins.names("backbone"))
@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
def test_a_known_users_list_is_the_evaluators_ranking(trained: Make, name: str, inputs: object) -> None:
    if name == "similarity" and inputs is PLAIN:
        pytest.skip("it ranks by profiles")
    one = trained(name, inputs)
    found = one.recommend("u5", k=20)
    model: Any = one.model
    mask = DATA.joined(["train", "valid"])
    scores = model.scorer()(torch.tensor([5]), torch.arange(20))[0]
    if name == "random":  # each scorer draws anew, in the order it is asked
        assert sorted(ids(found)) == sorted(f"i{i}" for i in set(range(20)) - touched(5))
        return
    scores[mask.item_idx[mask.user_idx == 5]] = -torch.inf
    scores[np.setdiff1d(np.arange(20), model.rankable().numpy())] = -torch.inf
    kept = int((scores > -torch.inf).sum())
    torch.testing.assert_close(torch.tensor(found["score"].to_numpy()), scores.topk(kept).values)
    no_ties = len(scores.topk(kept).values.unique()) == kept  # which may go either way
    ties = ("popularity", "ease", "ials", "itemknn")  # of items with the same users
    assert no_ties or name in (*ties, "ncf")  # its features may be all zeros behind their ReLU
    if no_ties:
        assert ids(found) == [f"i{i}" for i in scores.topk(kept).indices.tolist()]
    # and by the evaluator itself: whatever place an item has in the list, it is a hit from there on
    place = {id: at for at, id in enumerate(ids(found), 1)}
    item = int(ids(found)[2][1:])
    task = Task.of(
        Interactions(np.array([5]), np.array([item])), mask, np.arange(20), PLAIN.users, PLAIN.items
    )
    hits = evaluate(model.scorer(), task, ["hit@2", "hit@3"]).mean()
    if no_ties:
        assert place[f"i{item}"] == 3
        assert (hits["hit@2"], hits["hit@3"]) == (0, 1)


def touched(user: int) -> set[int]:
    mask = DATA.joined(["train", "valid"])
    return set(mask.item_idx[mask.user_idx == user].tolist())


@pytest.mark.parametrize("name", ["biasmf", "ncf", "lightgcn"])
def test_a_new_item_scores_as_the_known_item_of_its_text(trained: Make, name: str) -> None:
    one = trained(name, replace(PLAIN, item_text=Parity().encode(DATA.item_text["title"].to_pylist())))
    scores = dict(one.recommend("u5", k=99, new_items=NEW)[["item", "score"]].to_numpy())
    assert scores["n2"] == pytest.approx(scores["i19"], rel=1e-5)
    assert scores["n1"] == pytest.approx(scores["i18"], rel=1e-5)
    found = one.recommend("u5", k=99, new_items=NEW)
    assert list(
        found[found["item"].isin(["n1", "i18"])][["title", "new"]].itertuples(index=False, name=None)  # pyright: ignore[reportAttributeAccessIssue]
    ) in (
        [("even calm blue water z", True), ("even calm blue water s", False)],
        [("even calm blue water s", False), ("even calm blue water z", True)],
    )
    assert found.attrs["ranked"].endswith(", and 2 new items")


def test_a_new_user_with_a_known_users_history_is_close_to_it_but_for_its_own_vector(trained: Make) -> None:
    one = trained("lightgcn")
    history = [f"i{i}" for i in DATA.train.item_idx[DATA.train.user_idx == 5]]
    found = one.recommend(history=history, k=20)
    assert not {*history} & {*ids(found)}
    assert f"a history of {len(history)} items (features of its items propagated" in found.attrs["user"]
    model = one.model
    assert isinstance(model, EmbeddingBackbone)
    own = one.representations[0][5] - model.user_embedding[5] + model.user_prior(1)[0]
    rows = [int(id[1:]) for id in ids(found)]
    torch.testing.assert_close(
        torch.tensor(found["score"].to_numpy()), (one.representations[1][rows] @ own).detach()
    )


@pytest.mark.parametrize("name", ["biasmf", "lightgcn"])
def test_several_new_users_at_once_are_as_one_by_one(trained: Make, name: str) -> None:
    one = trained(name, AUGMENTED)
    model = one.model
    assert isinstance(model, EmbeddingBackbone)
    texts = ["even", None, "odd"]
    draw = torch.Generator()
    together = model.add_users(encode_profiles(one, texts), None, draw)
    for row, text in enumerate(texts):
        torch.testing.assert_close(
            model.add_users(encode_profiles(one, [text]), None, draw)[0], together[row]
        )
    histories = sparse.csr_array(np.eye(3, PLAIN.items, dtype=np.float32))
    assert model.add_users(encode_profiles(one, texts), histories, draw).shape == together.shape


def test_a_profile_alone_and_with_a_history(trained: Make) -> None:
    one = trained("biasmf", AUGMENTED)
    alone, other = (one.recommend(profile=text, k=20) for text in ("even things", "odd things"))
    assert alone["score"].tolist() != other["score"].tolist()
    assert alone.attrs["user"] == (
        "a new user: a profile of 2 words (embedded by parity), the mean of the trained users to begin with"
    )
    both = one.recommend(profile="even things", history=["i0", "i2"], k=20)
    assert "a history of 2 items (its own vector fitted" in both.attrs["user"]
    assert "a profile of 2 words" in both.attrs["user"]
    again = one.recommend(profile="even things", history=["i2", "i0", "i0"], k=20)
    assert again["item"].tolist() == both["item"].tolist()


def test_ids_alone_rank_what_was_trained_and_pass_over_the_rest_of_a_history(trained: Make) -> None:
    one = trained("ncf", items="id")
    assert {*ids(one.recommend("u5", k=99))} <= {f"i{i}" for i in range(16)}
    found = one.recommend(history=["i0", "i19"], k=99)
    assert "a history of 1 item (" in found.attrs["user"]
    assert "without 1 item of it that training never saw" in found.attrs["user"]
    with pytest.raises(BadInput, match="training saw none of the items"):
        one.recommend(history=["i19"])


@pytest.mark.parametrize(
    ("options", "who", "new", "words"),
    [
        ({}, {"users": "u99"}, None, "unknown user 'u99' among the 24 users of data set 'checkerboard'"),
        ({}, {"history": ["i1", "i77"]}, None, "unknown item 'i77' among the 20 items"),
        ({}, {"profile": "even"}, None, "trained without user profiles"),
        ({"items": "id"}, {"users": "u1"}, NEW, "knows items by their ID alone"),
        ({}, {}, None, "--user ID for a user"),
        ({}, {"users": "u1", "history": ["i1"]}, None, "--user ID for a user"),
        ({}, {"profile": " "}, None, "--profile is empty"),
        ({}, {"history": []}, None, "--history names no item"),
        ({}, {"history": [f"i{i}" for i in range(20)]}, None, "touched every item"),
    ],
)
def test_what_cannot_be_done_is_said(
    trained: Make, options: dict[str, str], who: dict[str, Any], new: NewItems | None, words: str
) -> None:
    with pytest.raises(ReclmError, match=words):
        trained("biasmf", **options).recommend(**who, new_items=new)


def test_a_baseline_has_no_place_for_anybody_new(trained: Make) -> None:
    with pytest.raises(BadInput, match="'popularity' has no place"):
        trained("popularity").recommend(history=["i1"])


def test_one_id_is_one_item_of_a_history(trained: Make) -> None:
    model = trained("lightgcn")
    listed = model.recommend(history=["i1"], k=3)
    for history in ("i1", (name for name in ["i1"]), pd.Series(["i1"], index=[7])):
        pd.testing.assert_frame_equal(model.recommend(history=history, k=3), listed)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        *(({"users": "u1", "k": k}, "k") for k in (0, -1, 1.5, "3")),
        ({"users": []}, "users"),
        ({"profile": ["likes films"]}, "profile"),
        ({"users": "u1", "new_items": 7}, "new_items"),
    ],
)
def test_a_question_that_cannot_be_is_bad_input(trained: Make, given: Any, where: str) -> None:
    with pytest.raises(BadInput) as error:
        trained("lightgcn").recommend(**given)
    assert error.value.where == where
