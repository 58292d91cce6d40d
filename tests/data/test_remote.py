"""Sources in remote file systems, tried on fsspec's own in memory."""

import gzip
import io
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.data.catalog import prepare_dataset
from reclm.data.readers.base import RemotePath
from reclm.errors import BadInput, NotFound

ROWS = [(f"u{user}", f"i{item}") for user in range(4) for item in range(5)]
LOG = "user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in ROWS)
ITEMS = "item_id,title\n" + "".join(f'i{item},"A, {item}"\n' for item in range(5))


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def test_tables_are_read_where_they_lie(bucket, tmp_path):
    (tmp_path / "interactions.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text(ITEMS)
    expected = prepare_dataset("table", tmp_path, name="local").fingerprint
    bucket.pipe("/csv/interactions.csv", LOG.encode())
    bucket.pipe("/csv/items.csv", ITEMS.encode())
    bucket.pipe("/packed/interactions.csv.gz", gzip.compress(LOG.encode()))
    bucket.pipe("/packed/items.csv", ITEMS.encode())
    parquet = io.BytesIO()
    pq.write_table(
        pa.table({"user_id": [user for user, _ in ROWS], "item_id": [item for _, item in ROWS]}), parquet
    )
    bucket.pipe("/parquet/interactions.parquet", parquet.getvalue())
    bucket.pipe("/parquet/items.csv", ITEMS.encode())
    for folder in ("csv", "packed", "parquet"):
        dataset = prepare_dataset("table", f"memory://{folder}", name=folder)
        assert dataset.fingerprint == expected
    assert prepare_dataset("table", "memory://csv/interactions.csv", name="file").fingerprint == expected


def test_amazon_reviews_are_read_where_they_lie(bucket, tmp_path):
    reviews = "".join(
        json.dumps(
            {
                "user_id": f"u{user}",
                "parent_asin": f"i{item}",
                "rating": 5.0,
                "timestamp": 1_600_000_000_000 + item,
            }
        )
        + "\n"
        for user in range(6)
        for item in range(6)
    )
    about = "".join(
        json.dumps({"parent_asin": f"i{item}", "title": f"Film {item}"}) + "\n" for item in range(6)
    )
    for folder in (tmp_path, RemotePath("memory://shop")):
        for name, text in (("Films.jsonl.gz", reviews), ("meta_Films.jsonl.gz", about)):
            if folder is tmp_path:
                (folder / name).write_bytes(gzip.compress(text.encode()))  # pyright: ignore[reportAttributeAccessIssue]
            else:
                bucket.pipe(f"/shop/{name}", gzip.compress(text.encode()))
    local = prepare_dataset("amazon", tmp_path, name="local")
    assert prepare_dataset("amazon", "memory://shop", name="remote").fingerprint == local.fingerprint
    with pytest.raises(BadInput):
        prepare_dataset("mind", "memory://shop")


def test_malformed_lines_are_told_with_their_address(bucket):
    bucket.pipe("/x/log.csv", LOG.encode() + b"u1\n")
    dataset = prepare_dataset("table", "memory://x/log.csv")
    assert dataset.report.dropped == {"malformed line": 1}
    assert "/x/log.csv:22: u1" in dataset.report.malformed[0]
    with pytest.raises(BadInput):
        prepare_dataset("table", "memory://x/log.csv", strict=True)


@pytest.mark.parametrize("url", ["memory://nowhere/x.csv", "no-such-system://x/y.csv"])
def test_addresses_that_lead_nowhere_are_one_line(bucket, url):
    with pytest.raises(NotFound) as error:
        prepare_dataset("table", url)
    assert "\n" not in str(error.value)


def test_paths(bucket):
    bucket.pipe("/a/b/c.csv.gz", b"x")
    path = RemotePath("memory://a/b") / "c.csv.gz"
    assert (path.name, path.is_file(), path.stat().st_size) == ("c.csv.gz", True, 1)
    assert path.parent.exists()
    assert not path.parent.is_file()
    assert not list((path.parent / "none").glob("*"))
    assert [str(found) for found in path.parent.glob("*.gz")] == [str(path)]
