"""Amazon Reviews 2023, on files made as they are published."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclm.data.dataset import Dataset
from reclm.data.readers.amazon import Amazon, prices
from reclm.errors import BadInput, ReclmError
from reclm.text.item_text import item_texts

START = 1_588_687_728_923


REVIEW = """{"rating": 5.0, "title": "Five Stars", "text": "", "images": [], "asin": "B0-DVD", "parent_asin": "B0",
"user_id": "A0", "timestamp": 0, "helpful_vote": 0, "verified_purchase": true}"""
ABOUT = """{"main_category": "Movies & TV", "title": "", "average_rating": 4.5, "rating_number": 7, "features": [],
"description": [], "price": 9.99, "images": [{"thumb": "t.jpg", "large": "l.jpg", "variant": "MAIN", "hi_res": null}],
"videos": [], "store": null, "categories": ["Movies & TV", "Drama"], "details": {"Language": "English"},
"parent_asin": "B0", "bought_together": null}"""


def review(user: int, item: int, **other: Any) -> dict[str, Any]:
    one = {
        "rating": float(1 + (user + item) % 5),
        "text": f"user {user} on film {item}",
        "user_id": f"A{user}",
    }
    one |= {"parent_asin": f"B{item}", "timestamp": START + 86_400_000 * item + user}
    return json.loads(REVIEW) | one | other


def about(item: int, **other: Any) -> dict[str, Any]:
    one = {
        "parent_asin": f"B{item}",
        "title": f"Film {item}",
        "description": [f"What happens in film {item}."],
    }
    return json.loads(ABOUT) | one | other


REVIEWS = [review(user, item) for user in range(5) for item in range(5)]
METADATA = [about(item) for item in range(5)]


def lines(records: list[Any]) -> bytes:
    return b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in records)


def make(folder: Path, reviews: list[Any], metadata: list[Any], name: str = "Movies_and_TV") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_bytes(lines(reviews))
    (folder / f"meta_{name}.jsonl").write_bytes(lines(metadata))
    return folder


def read(source: Path, strict: bool = False, **options: object) -> Dataset:
    return Amazon().read(source, Amazon.Config.build({"held_out_items": 0, **options}), strict=strict)


def test_a_category_by_hand(tmp_path):
    dataset = read(make(tmp_path, REVIEWS, METADATA))
    # five films a user, the newest to test on, the one before to validate
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (15, 5, 5)
    assert set(dataset.items.ids(dataset.test.item_idx)) == {"B4"}
    assert set(dataset.items.ids(dataset.valid.item_idx)) == {"B3"}
    first = next(row for row in range(15) if dataset.users.ids(dataset.train.user_idx[[row]]) == ["A2"])
    assert dataset.train.timestamp[first] == START // 1000
    assert dataset.train.rating[first] == 3
    assert dataset.train.review[first].as_py() == "user 2 on film 0"
    film = dataset.items.idx(["B3"])[0]
    assert item_texts(dataset.item_text, dataset.text_template)[film] == (
        "Film 3. Movies & TV, Drama. What happens in film 3."
    )
    assert dataset.item_text["price"][film].as_py() == "9.99"
    assert dataset.item_text["average_rating"][film].as_py() == "4.5"
    assert dataset.report.dropped == {}


def test_gzipped_and_in_the_folders_they_are_published_in_reads_alike(tmp_path):
    plain, raw = read(make(tmp_path / "plain", REVIEWS, METADATA)), tmp_path / "raw"
    for folder, name, records in (("review", "", REVIEWS), ("meta", "meta_", METADATA)):
        (raw / f"{folder}_categories").mkdir(parents=True)
        packed = gzip.compress(lines(records))
        (raw / f"{folder}_categories" / f"{name}Movies_and_TV.jsonl.gz").write_bytes(packed)
    assert read(raw).fingerprint == plain.fingerprint
    assert read(raw / "review_categories" / "Movies_and_TV.jsonl.gz").fingerprint == plain.fingerprint


def test_missing_and_odd_metadata(tmp_path):
    metadata = [
        about(0, price=None, description=[], features=["Blu-ray", None, " "], title="Tom &amp; Jerry"),
        about(1, price="from 12.99", description=["<p>One</p><p>two <b>b</b>old</p>", "three"]),
        about(2, price="—", categories=[], description="not a list"),
        about(3, average_rating=None, description=["word " * 300]),
        about(0, title="a second line of the same film", description=["short"]),
        about(99),
    ]
    dataset = read(make(tmp_path, REVIEWS, metadata), longest_text=20)
    text = {field: dataset.item_text[field].to_pylist() for field in dataset.item_text.column_names}
    row = {item: int(dataset.items.idx([f"B{item}"])[0]) for item in range(5)}
    assert [text["title"][row[item]] for item in range(5)] == [
        "Tom & Jerry",
        "Film 1",
        "Film 2",
        "Film 3",
        "",
    ]
    assert [text["price"][row[item]] for item in range(5)] == ["", "12.99", "", "9.99", ""]
    assert [text["description"][row[item]] for item in range(5)] == [
        "", "One two bold three", "not a list", "word word word…", "",
    ]  # fmt: skip
    assert text["features"][row[0]] == "Blu-ray"
    assert text["categories"][row[2]] == "Movies & TV"
    assert text["average_rating"][row[3]] == ""
    counts = {what: count for what, count in dataset.report.counts.items() if count < 5}
    assert counts == {
        "items with HTML in their text": 2,
        "items whose text was shortened": 1,
        "items without description": 1,
        "items without price": 1,
        "items whose price is no number": 1,
        "lines of metadata with a field of another type": 1,
        "items without metadata": 1,
        "items without any text": 1,
    }
    assert dataset.report.dropped == {"further line of metadata of the same item": 1}


def test_reviews_that_cannot_be_used_are_counted(tmp_path):
    wrong = [
        b"{broken\n",
        review(0, 0, user_id=" "),
        review(0, 0, parent_asin=None, asin=""),
        review(0, 0, rating=0.0),
        review(0, 0, timestamp=START // 1000),
        review(0, 0, timestamp=None),
        b'"text"\n',
    ]
    again = review(1, 1, timestamp=START + 10**12 // 2, text="later, of the same film")
    alone = review(77, 3)
    source = make(tmp_path, [*REVIEWS[:12], *wrong, *REVIEWS[12:], again, alone], METADATA)
    dataset = read(source)
    assert len(dataset.train) + len(dataset.valid) + len(dataset.test) == 25
    assert dataset.report.dropped == {
        "malformed line": 7,
        "repeated interaction": 1,
        "of a user or item with too few interactions": 1,
        "user without interactions left": 1,
    }
    assert [line.split("TV.jsonl:")[1][:3] for line in dataset.report.malformed] == [
        "13:",
        "19:",
        "14:",
        "15:",
        "16:",
    ]
    assert "later, of the same film" not in [
        text for split in ("train", "valid", "test") for text in dataset.split(split).review.to_pylist()
    ]
    with pytest.raises(BadInput, match=r"Movies_and_TV\.jsonl:13: \{broken"):
        read(source, strict=True)


def test_ids_that_are_not_unicode_do_not_become_one(tmp_path):
    halves = [
        review(0, 0, user_id="A\ud83d"),
        review(1, 1, user_id="A\ud83e"),
        review(2, 2, parent_asin="\udc00", asin=""),
    ]
    source = make(tmp_path, [*REVIEWS, *halves], [*METADATA, about(0, parent_asin="\ud83d")])
    dataset = read(source)
    assert dataset.users.ids() == [f"A{user}" for user in range(5)]
    assert dataset.report.dropped["malformed line"] == 4


def test_each_review_stays_with_its_interaction(tmp_path):
    odd = [review(2, 2, text="Great.<br /><br />Really &lt;3"), review(3, 1, text=" ", title="<b>Fine</b>"),
           review(4, 0, text=None, title=None), review(0, 4, text="long " * 50)]  # fmt: skip
    changed = {(one["user_id"], one["parent_asin"]) for one in odd}
    others = [one for one in REVIEWS if (one["user_id"], one["parent_asin"]) not in changed]
    dataset = read(make(tmp_path, [*reversed(others), *odd], METADATA), longest_review=24)
    found = {}
    for name in ("train", "valid", "test"):
        split = dataset.split(name)
        users, items = dataset.users.ids(split.user_idx), dataset.items.ids(split.item_idx)
        found |= dict(zip(zip(users, items, strict=True), split.review.to_pylist(), strict=True))
    assert found.pop(("A2", "B2")) == "Great. Really <3"
    assert found.pop(("A3", "B1")) == "Fine"
    assert found.pop(("A4", "B0")) == ""
    assert found.pop(("A0", "B4")) == "long long long long…"
    assert len(found) == 21
    assert all(text == f"user {user[1:]} on film {item[1:]}" for (user, item), text in found.items())
    kept = dataset.report.counts
    assert (kept["reviews with HTML"], kept["reviews without text"], kept["reviews that were shortened"]) == (
        2,
        1,
        1,
    )
    assert read(tmp_path, reviews=False).train.review is None


def test_reviews_of_the_same_second_stay_in_order(tmp_path):
    # the published files have a user's newest first
    reviews = [review(user, item, timestamp=START + item) for user in range(5) for item in reversed(range(5))]
    dataset = read(make(tmp_path, reviews, METADATA))
    assert set(dataset.items.ids(dataset.test.item_idx)) == {"B4"}


def test_sources_that_are_something_else(tmp_path):
    books = make(tmp_path / "both", REVIEWS, METADATA)
    make(books, REVIEWS, METADATA, "Books")
    without = make(tmp_path / "without", REVIEWS, METADATA)
    (without / "meta_Movies_and_TV.jsonl").unlink()
    only = make(tmp_path / "only", REVIEWS, METADATA)
    (only / "Movies_and_TV.jsonl").unlink()
    old = make(
        tmp_path / "old", [{"reviewerID": "A", "asin": "B", "overall": 5, "unixReviewTime": 1}], METADATA
    )
    few = make(tmp_path / "few", REVIEWS[:4], METADATA)
    other = make(tmp_path / "other", REVIEWS, [about(item) for item in range(10, 20)])
    empty = make(tmp_path / "empty", [], METADATA)
    cases: tuple[tuple[Path, dict[str, Any], str], ...] = (
        (tmp_path / "nowhere", {}, "no such file or folder"),
        (tmp_path, {}, "no file of reviews in .*; --source must be a folder with NAME.jsonl"),
        (only, {}, "no file of reviews in"),
        (only / "meta_Movies_and_TV.jsonl", {}, "no file of reviews in"),
        (without, {}, r"has no meta_Movies_and_TV\.jsonl or meta_Movies_and_TV\.jsonl\.gz beside it"),
        (books, {}, "several categories: Books, Movies_and_TV; choose one with --set category=NAME"),
        (books, {"category": "Boks"}, "'Boks'; did you mean 'Books'"),
        (old, {}, r"holds no reviews: .* user_id, parent_asin, .* the first malformed line: .*jsonl:1: "),
        (few, {}, "min_user=5 and min_item=5; lower them"),
        (other, {}, "describes none of the 5 items"),
        (empty, {}, r"Movies_and_TV\.jsonl is empty"),
        (books, {"category": "Books", "text_template": "{titel}"}, "'titel'; did you mean 'title'"),
    )
    for source, options, message in cases:
        with pytest.raises(ReclmError, match=message) as caught:
            read(source, **options)
        assert "\n" not in str(caught.value)
    assert len(read(books, category="Books").users) == 5


junk = st.one_of(
    st.binary(max_size=30).map(lambda raw: raw.translate(None, b"\n\0")),
    st.sampled_from([review(0, 0), about(0)]).map(lambda one: json.dumps(one).encode()),
).flatmap(lambda raw: st.integers(0, len(raw)).map(lambda cut: raw[:cut]))
value = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@settings(max_examples=40, deadline=None)
@given(st.lists(junk, max_size=8), st.sampled_from(list(review(0, 0))), value)
def test_whatever_lines_lie_between_the_good_reviews_stay(tmp_path_factory, between, key, value):
    source = tmp_path_factory.mktemp("amazon")
    spoilt = [review(user, 9, **{key: value}) for user in (50, 51)]
    reviews = [*REVIEWS[:9], *(raw + b"\n" for raw in between), *spoilt, *REVIEWS[9:]]
    metadata = [
        *METADATA[:2],
        *(raw + b"\n" for raw in between),
        about(9, price=value, title=value),
        *METADATA[2:],
    ]
    make(source, reviews, metadata)
    dataset = read(source)
    assert {f"A{user}" for user in range(5)} <= set(dataset.users.ids())
    assert len(dataset.train) + len(dataset.valid) + len(dataset.test) >= 25
    texts = dict(zip(dataset.items.ids(), dataset.item_text["title"].to_pylist(), strict=True))
    assert [texts[f"B{item}"] for item in range(5)] == [f"Film {item}" for item in range(5)]


def test_a_nul_byte_is_named_by_its_line(tmp_path):
    make(tmp_path, [*REVIEWS[:9], b"\0\n", *REVIEWS[9:]], METADATA)
    with pytest.raises(BadInput, match=r":10: a NUL byte") as raised:
        read(tmp_path)
    assert raised.value.value == 10


MEASURE = """
import resource
from pathlib import Path
from reclm.data.readers.amazon import Amazon, prices
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
Amazon().read(Path("small"), Amazon.Config())
before = peak()
dataset = Amazon().read(Path("large"), Amazon.Config())
print(len(dataset.users), peak() - before)
"""


def test_memory_is_needed_for_what_is_kept_only(tmp_path):
    make(tmp_path / "small", REVIEWS, METADATA)
    large = make(tmp_path / "large", REVIEWS, METADATA)
    (large / "Movies_and_TV.jsonl").unlink()
    line = lines([review(0, 0, text="one of very many " * 20, user_id="USER")])
    with gzip.open(large / "Movies_and_TV.jsonl.gz", "wb", compresslevel=1) as file:
        for first in range(1000, 201_000, 10_000):
            file.write(
                b"".join(line.replace(b"USER", b"B%d" % user) for user in range(first, first + 10_000))
            )
        file.write(lines(REVIEWS))
    command, pool = [sys.executable, "-c", MEASURE], os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, cwd=tmp_path, env=pool, capture_output=True, text=True, check=True)
    users, mebibytes = done.stdout.split()
    assert users == "5"
    # of 120 MB of JSON, 68 of them text; what grows with the lines is ids, times and ratings
    assert float(mebibytes) < 80


@pytest.mark.parametrize(
    ("said", "read"),
    [("12.99", "12.99"), ("from $1,299.5", "1299.5"), ("1,2,3", "1"), ("9" * 400, ""), ("—", ""), (None, "")],
)
def test_a_price_is_its_first_number(said: str | None, read: str) -> None:
    assert prices(pa.chunked_array([pa.array([said], pa.string())])).to_pylist() == [read]
