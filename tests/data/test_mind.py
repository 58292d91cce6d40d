"""MIND as Microsoft ships it, in a version small enough to follow by hand."""

import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from reclm.data.dataset import Dataset, Interactions
from reclm.data.readers.mind import Mind, two_days
from reclm.errors import BadInput, Damaged, ReclmError
from reclm.text.item_text import item_texts

TRAIN = """\
1\tU1\t11/13/2019 12:05:00 AM\tN9 N8\tN1-1 N2-0
2\tU1\t11/14/2019 8:55:22 AM\tN9 N8\tN1-1 N3-1 N2-0
3\tU1\t11/14/2019 9:00:00 AM\t\tN4-0 N1-1
4\tU2\t11/14/2019 1:00:00 PM\tN9\tN2-1 N4-0
5\tU3\t11/14/2019 11:59:59 PM\tN9\tN5-1
"""
DEV = """\
6\tU1\t11/15/2019 12:00:00 AM\tN9\tN3-1 N4-1
7\tU2\t11/15/2019 11:30:00 PM\tN9\tN1-1
8\tU4\t11/15/2019 5:00:00 AM\tN9\tN6-1
9\tU1\t11/16/2019 3:00:00 AM\tN9\tN7-1
"""
# U1 clicked N1 twice on the 14th and N3 again on the 15th; U3 and U4 clicked on one day only; the 16th is cut off at 3
NEWS = "".join(
    f'N{n}\tsports\tgolf\tThe "{n}th hole\tAbout {n}.\thttps://x\t[]\t[]\n' for n in range(1, 8) if n != 2
) + ("N2\tnews\t\tTwo\t\thttps://x\t[]\t[]\nN2\tnews\t\tSecond row\t\t\t\t\n")


def make_zip(path: Path, behaviors: str | None = TRAIN + DEV, news: str | None = NEWS) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MIND/entity_embedding.vec", "Q1\t0.1")
        for name, text in (("behaviors.tsv", behaviors), ("news.tsv", news)):
            if text is not None:
                archive.writestr(f"MIND/{name}", text)
    return path


def read(source: Path, strict: bool = False, **options: object) -> Dataset:
    return Mind().read(source, Mind.Config.build({"valid": 0, **options}), strict=strict)


def clicks(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    part: Interactions = getattr(dataset, split)
    return list(zip(dataset.users.ids(part.user_idx), dataset.items.ids(part.item_idx), strict=True))


def test_the_last_two_whole_days_by_hand(tmp_path):
    dataset = read(make_zip(tmp_path / "mind.zip"))
    assert sorted(clicks(dataset, "train")) == [("U1", "N1"), ("U1", "N3"), ("U2", "N2")]
    assert sorted(clicks(dataset, "test")) == [("U1", "N4"), ("U2", "N1")]
    assert len(dataset.valid) == 0
    assert dataset.users.ids() == ["U1", "U2"]
    assert sorted(dataset.items.ids()) == ["N1", "N2", "N3", "N4"]
    assert sorted(dataset.items.ids(dataset.protocol("full-shot").candidates)) == ["N1", "N3", "N4"]
    assert dataset.items.ids(dataset.protocol("zero-shot").candidates) == ["N4"]
    assert dataset.report.counts["clicks read on 2019-11-14, the train day"] == 5
    assert dataset.report.counts["clicks read on 2019-11-15, the test day"] == 4
    assert dataset.report.dropped == {
        "click on another day": 2,
        "click repeated on the same day": 1,
        "click of a user not active on both days": 2,
        "test click that repeats a training click": 1,
    }
    first = dataset.train.timestamp[clicks(dataset, "train").index(("U1", "N1"))]
    assert datetime.fromtimestamp(first, UTC) == datetime(2019, 11, 14, 8, 55, 22, tzinfo=UTC)
    texts = dict(zip(dataset.items.ids(), item_texts(dataset.item_text, dataset.text_template), strict=True))
    assert texts["N1"] == 'sports, golf. The "1th hole. About 1.'
    assert texts["N2"] == "news. Two"


def test_validation_takes_the_newest_training_click_of_a_user_with_two(tmp_path):
    behaviors = TRAIN.replace(
        "3\tU1\t11/14/2019 9:00:00 AM\t\tN4-0 N1-1", "3\tU1\t11/14/2019 9:00:00 PM\t\tN6-1"
    )
    dataset = read(make_zip(tmp_path / "mind.zip", behaviors + DEV), valid=0.25)  # round(.25 · 4) = 1
    assert clicks(dataset, "valid") == [("U1", "N6")]


def test_chosen_days(tmp_path):
    source = make_zip(tmp_path / "mind.zip")
    dataset = read(source, train_day="2019-11-13")
    assert clicks(dataset, "train") == [("U1", "N1")]
    assert clicks(dataset, "test") == [("U1", "N3")]
    assert clicks(read(source, test_day=date(2019, 11, 16)), "test") == [("U1", "N7")]
    skipping = read(source, train_day="2019-11-13", test_day="2019-11-15")
    assert sorted(clicks(skipping, "test")) == [("U1", "N3"), ("U1", "N4")]
    with pytest.raises(BadInput, match=r"test_day 2019-11-17 has no clicks.*2019-11-14 \(5 clicks\)"):
        read(source, test_day="2019-11-17", train_day="2019-11-14")
    with pytest.raises(BadInput, match="must come before"):
        read(source, train_day="2019-11-15", test_day="2019-11-14")


def at(*times: str) -> np.ndarray:
    return np.array([int(datetime.fromisoformat(f"2019-11-{time}+00:00").timestamp()) for time in times])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (("13T00:30", "14T12:00", "15T23:10"), ("14", "15")),  # the log's last day is whole
        (("13T00:30", "14T12:00", "15T22:59"), ("13", "14")),  # cut off before its last hour
        (("13T00:30", "14T00:00", "16T10:00", "17T23:59"), ("16", "17")),
        (
            ("13T00:30", "14T00:00", "16T10:00", "17T12:00"),
            ("13", "14"),
        ),  # 14 and 16 do not follow each other
    ],
)
def test_whole_days(times, expected):
    days = [(date(2019, 11, int(day)) - date(1970, 1, 1)).days for day in expected]
    assert list(two_days(at(*times), None, None)) == days


def test_no_two_whole_days_names_those_there_are():
    with pytest.raises(BadInput, match=r"--set train_day=.*2019-11-13 \(1 clicks\), 2019-11-14 \(2 clicks\)"):
        two_days(at("13T08:00", "14T08:00", "14T09:00"), None, None)


def test_folders_and_zips_are_read_together(tmp_path):
    for name, text in (("MINDtiny_train", TRAIN), ("MINDtiny_dev", DEV)):
        (tmp_path / "parts" / name).mkdir(parents=True)
        (tmp_path / "parts" / name / "behaviors.tsv").write_text(text)
        (tmp_path / "parts" / name / "news.tsv").write_text(NEWS)
    make_zip(tmp_path / "parts" / "MINDtiny_dev.zip", DEV)  # beside its own contents: not read again
    whole = read(make_zip(tmp_path / "mind.zip"))
    parts = read(tmp_path / "parts")
    assert sorted(clicks(parts, "train")) == sorted(clicks(whole, "train"))
    assert sorted(clicks(parts, "test")) == sorted(clicks(whole, "test"))
    assert parts.report.dropped == whole.report.dropped

    (tmp_path / "zips").mkdir()
    make_zip(tmp_path / "zips" / "a_train.zip", TRAIN)
    make_zip(tmp_path / "zips" / "b_dev.zip", DEV)
    assert read(tmp_path / "zips").fingerprint == whole.fingerprint


def test_malformed_lines_and_lines_without_labels(tmp_path):
    bad = [
        "10\tU1\t2019-11-14 10:00\tN9\tN5-1",
        "11\tU1\t11/14/2019 10:00:00 AM\tN9\tN5-1 N6",
        "12\tU1\t11/14/2019 10:00:00 AM\tN5-1",
        "13\t\t11/14/2019 10:00:00 AM\t\tN5-1",
        "14\tU1\t11/14/2019 10:00:00 AM\tN9\t-1",
    ]
    bare = "15\tU1\t11/14/2019 10:00:00 AM\tN9\tN5 N6\n"
    source = make_zip(tmp_path / "mind.zip", TRAIN + "\n".join(bad) + "\n" + bare + DEV)
    dataset = read(source)
    assert sorted(clicks(dataset, "train")) == [("U1", "N1"), ("U1", "N3"), ("U2", "N2")]
    assert dataset.report.dropped["malformed line"] == 5
    assert dataset.report.dropped["impression without click labels"] == 1
    wrong = {line.split("behaviors.tsv:")[1].split(":")[0]: line for line in dataset.report.malformed}
    assert sorted(wrong) == ["10", "6", "7", "8", "9"]
    assert "not like 11/15/2019 8:55:22 AM" in wrong["6"]
    assert "not like N123-1 N456-0" in wrong["7"]
    assert "4 fields, not 5" in wrong["8"]
    with pytest.raises(BadInput, match=r"behaviors\.tsv:\d+: 1\d\\t"):
        read(source, strict=True)


def test_a_damaged_archive(tmp_path):
    path = make_zip(tmp_path / "mind.zip")
    raw = path.read_bytes()
    assert raw.count(b"U3\t11/14") == 1  # stored, not compressed
    path.write_bytes(raw.replace(b"U3\t11/14", b"U5\t11/14"))
    with pytest.raises(Damaged, match=r"behaviors\.tsv is damaged: Bad CRC-32"):
        read(path)
    path.write_bytes(raw.replace(b"About 7", b"About 9"))
    with pytest.raises(Damaged, match=r"news\.tsv is damaged: Bad CRC-32"):
        read(path)


def test_minimum_counts(tmp_path):
    # N2 and N4 have one user each; without them U2 has no training click, without whom N1 has one user and goes
    behaviors = (
        "1\tU1\t11/14/2019 12:30:00 AM\t\tN1-1 N3-1\n2\tU2\t11/14/2019 9:00:00 AM\t\tN2-1\n"
        "3\tU3\t11/14/2019 9:00:00 AM\t\tN3-1\n4\tU3\t11/15/2019 9:00:00 AM\t\tN5-1\n"
        "5\tU1\t11/15/2019 9:00:00 AM\t\tN4-1 N5-1\n6\tU2\t11/15/2019 11:00:00 PM\t\tN1-1\n"
    )
    dataset = read(make_zip(tmp_path / "mind.zip", behaviors), min_item=2)
    assert sorted(clicks(dataset, "train")) == [("U1", "N3"), ("U3", "N3")]
    assert sorted(clicks(dataset, "test")) == [("U1", "N5"), ("U3", "N5")]
    assert dataset.report.dropped["click of a user or on an item with too few"] == 4
    with pytest.raises(BadInput, match="no user clicked on both 2019-11-14 and 2019-11-15"):
        read(tmp_path / "mind.zip", min_user=5)


def test_sources_that_cannot_be_read(tmp_path):
    cases = {
        "no such file or folder": tmp_path / "absent.zip",
        r"no behaviors\.tsv in": make_zip(tmp_path / "a.zip", None),
        r"no news\.tsv beside it": make_zip(tmp_path / "b.zip", news=None),
        r"behaviors\.tsv is empty": make_zip(tmp_path / "c.zip", ""),
        "no clicks": make_zip(tmp_path / "d.zip", "15\tU1\t11/14/2019 10:00:00 AM\tN9\tN5 N6\n"),
        "is no zip archive": tmp_path / "e.zip",
    }
    (tmp_path / "e.zip").write_text("no zip")
    for message, source in cases.items():
        with pytest.raises(ReclmError, match=message) as caught:
            read(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="needs --source"):
        Mind().read(None, Mind.Config())


def test_fault_25_the_reason_is_told_where_no_line_can_be_read(tmp_path):
    (tmp_path / "news.tsv").write_text("N1\tnews\tx\tTitle\tAbstract\n")
    (tmp_path / "behaviors.tsv").write_text("U1\t11/15/2019 8:55:22 AM\tN1\tN1-1 N2-0\n" * 20)
    with pytest.raises(BadInput, match=r"behaviors\.tsv:1: .*4 fields, not 5") as caught:
        Mind().read(tmp_path, Mind.Config())
    assert caught.value.value == {"malformed line": 20}


def test_fault_36_a_damaged_zip_is_one_line(tmp_path):
    path = tmp_path / "mind.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("news.tsv", "N1\tnews\tx\tTitle\tAbstract\n" * 9)
        archive.writestr("behaviors.tsv", "1\tU1\t11/15/2019 8:55:22 AM\tN1\tN1-1 N2-0\n" * 9)
    whole = path.read_bytes()
    for place in [*range(0, 34, 2), *range(len(whole) - 150, len(whole), 6)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(ReclmError):  # there is no second day to test on in the whole file either
            Mind().read(path, Mind.Config())
