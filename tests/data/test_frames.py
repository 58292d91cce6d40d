"""Data sets of frames: each kind of frame gives the same data set, and what cannot be used is one line."""

from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from reclm.data.catalog import load_dataset
from reclm.data.dataset import Dataset
from reclm.errors import BadInput, NotFound

CLICKS = pd.DataFrame(
    [(user, 100 + (user + step) % 7, 1_000 * step, 1 + step % 5) for user in range(8) for step in range(5)],
    columns=["user_id", "item_id", "timestamp", "stars"],
)
FILMS = pd.DataFrame({"item_id": range(100, 107), "title": [f"Film {n}" for n in range(7)], "year": range(7)})


def frames(frame: pd.DataFrame) -> list[object]:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return [frame, table, pl.from_arrow(table), pl.from_arrow(table).lazy(), duckdb.from_arrow(table)]  # pyright: ignore[reportAttributeAccessIssue]


def test_every_kind_of_frame_gives_the_same_data_set():
    made = [Dataset.from_frames(*pair) for pair in zip(frames(CLICKS), frames(FILMS), strict=True)]
    assert len({dataset.fingerprint for dataset in made}) == 1
    dataset = made[0]
    assert (dataset.name, dataset.n_users, dataset.n_items) == ("mine", 8, 7)
    assert dataset.item_text.column_names == ["title"]
    assert dataset.users.ids()[:2] == ["0", "1"]
    assert [protocol.name for protocol in dataset.protocols] == ["full-shot", "zero-shot"]


@pytest.mark.parametrize("split", ["per-user", "time"])
def test_frames_take_a_noun(split):
    assert Dataset.from_frames(CLICKS, FILMS, noun="films", split=split).view().noun == "films"


def test_whole_numbers_meet_however_they_are_stored():
    floats = FILMS.astype({"item_id": float})
    text = FILMS.astype({"item_id": str})
    expected = Dataset.from_frames(CLICKS, FILMS).fingerprint
    assert [Dataset.from_frames(CLICKS, items).fingerprint for items in (floats, text)] == [expected] * 2
    users = Dataset.from_frames(CLICKS.astype({"user_id": "category"}), FILMS).users
    assert users.idx([3]).tolist() == users.idx([3.0]).tolist() == users.idx(["3"]).tolist()
    assert users.find(["x"]).tolist() == [-1]


def test_rows_that_say_nothing_are_counted():
    clicks = CLICKS.astype({"user_id": float})
    clicks.loc[3, "user_id"] = None
    dataset = Dataset.from_frames(clicks, rating="stars")
    assert dataset.report.dropped["malformed line"] == 1
    assert dataset.report.malformed[0].startswith("interactions:4: ")
    assert dataset.users.ids()[0] == "0"
    assert dataset.train.rating is not None


def test_a_given_split_is_kept():
    split = ["train", "train", "train", "valid", "test"] * 8
    dataset = Dataset.from_frames(CLICKS.assign(split=split), FILMS, split="given", text="{title} ({year})")
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [24, 8, 8]
    assert dataset.text_template == "{title} ({year})"
    odd = Dataset.from_frames(CLICKS.assign(part=["tran", *split[1:]]), split="given", split_column="part")
    assert odd.report.dropped == {"malformed line": 1}


def test_sessions_are_a_split(tmp_path):
    dataset = Dataset.from_frames(
        CLICKS, FILMS, split="sessions", history=3, min_user=1, min_item=1, valid=0.25, test=0.25, name="next"
    )
    assert (dataset.name, dataset.protocols[0].name, len(dataset.sessions)) == ("next", "next-item", 8)  # pyright: ignore[reportArgumentType]
    dataset.save(tmp_path / "x")
    assert load_dataset(tmp_path / "x").fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("arguments", "error", "value"),
    [
        ({"user": "usr_id"}, NotFound, "usr_id"),
        ({"time": "when"}, NotFound, "when"),
        ({"split": "when"}, NotFound, "when"),
        ({"seeed": 1}, NotFound, "seeed"),
        ({"text": ["title"]}, BadInput, ["title"]),
        ({"items": FILMS, "text": "titel"}, NotFound, "titel"),
        ({"items": FILMS, "text": "{titel}"}, NotFound, "titel"),
        ({"items": FILMS.rename(columns={"item_id": "id"})}, NotFound, "item_id"),
        ({"split": "given"}, NotFound, "split"),
        ({"split": "sessions", "max_item_tokens": 5}, BadInput, "max_item_tokens"),
    ],
)
def test_a_frame_that_cannot_be_used_is_one_line(arguments, error, value):
    items = arguments.pop("items", None)
    with pytest.raises(error) as caught:
        Dataset.from_frames(CLICKS, items, **arguments)
    assert caught.value.value == value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("frame", [[1, 2], "clicks.csv", CLICKS.head(0), CLICKS.assign(user_id=[[{}]] * 40)])
def test_what_is_no_frame_of_interactions_is_one_line(frame):
    with pytest.raises(BadInput) as caught:
        Dataset.from_frames(frame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [None, "", 3])
def test_a_column_that_is_none_is_not_found(name: Any):
    for role in ("user", "item"):
        with pytest.raises(NotFound) as error:
            Dataset.from_frames(CLICKS.rename(columns={"stars": 7}), FILMS, **{role: name})
        assert error.value.value == name
