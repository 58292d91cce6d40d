"""MIND as Microsoft ships it: ``behaviors.tsv`` and ``news.tsv``, in zips or folders.

Paper: MIND: A Large-scale Dataset for News Recommendation, https://aclanthology.org/2020.acl-main.331;
files: https://msnews.github.io. The two-day protocol is RecLM's (https://arxiv.org/abs/2412.19302, section 6.1).
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import date, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data import splits
from reclm.data.dataset import Dataset, Interactions, ReadReport
from reclm.data.readers.base import MalformedLines, Reader, existing
from reclm.data.readers.columns import numbered, text_of
from reclm.data.readers.lines import Rows
from reclm.data.readers.records import read_all, read_rows
from reclm.data.readers.text_file import TextFile
from reclm.data.splits import Fraction, Seed
from reclm.errors import BadInput, NotFound

DAY, HOUR = 86_400, 3_600
EPOCH = date(1970, 1, 1)
BEHAVIORS = ("impression", "user", "time", "history", "impressions")
READ = ("impression", "user", "time", "impressions")  # histories are clicks of unknown days
NEWS = ("id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
TEXT = NEWS[1:5]
TEMPLATE = "{category}[, {subcategory}]. {title}[. {abstract}]"


def two_days(seconds: np.ndarray, train_day: date | None, test_day: date | None) -> tuple[int, int]:
    """Return the days, counted from 1970, to train and to test on, of clicks at ``seconds`` ``(n,)``.

    One day given decides the other, as they are consecutive. With none given they are the last two consecutive
    *whole* days. The log cuts days off only where it begins and ends: its first day is whole if it has a click in its
    first hour, its last day if it has one in its last hour, and the days between are whole.
    """
    days, clicks = np.unique(seconds // DAY, return_counts=True)
    if train_day is None and test_day is None:
        return _last_whole_days(seconds, days, clicks)
    if train_day is None:
        assert test_day is not None
        train_day = test_day - timedelta(days=1)
    test_day = test_day or train_day + timedelta(days=1)
    train, test = ((day - EPOCH).days for day in (train_day, test_day))
    for name, day in (("train_day", train), ("test_day", test)):
        if day not in days:
            raise BadInput(f"{name} {iso(day)} has no clicks; days with clicks: {_listed(days, clicks)}")
    if train >= test:
        raise BadInput(f"train_day {iso(train)} must come before test_day {iso(test)}")
    return train, test


def iso(day: int) -> str:
    """Write a day counted from 1970 as ``"2019-11-14"``."""
    return str(EPOCH + timedelta(days=int(day)))


def _last_whole_days(seconds: np.ndarray, days: np.ndarray, clicks: np.ndarray) -> tuple[int, int]:
    whole = np.ones(len(days), bool)
    whole[0] &= seconds.min() - days[0] * DAY < HOUR
    whole[-1] &= (days[-1] + 1) * DAY - seconds.max() <= HOUR
    follows = np.flatnonzero(whole[1:] & whole[:-1] & (np.diff(days) == 1))
    if not len(follows):
        rule = "a log's first day is whole with a click in its first hour, its last day with one in its last hour"
        remedy = "choose them with --set train_day=YYYY-MM-DD --set test_day=YYYY-MM-DD, days with clicks: "
        raise BadInput(f"no two consecutive whole days ({rule}); {remedy}{_listed(days, clicks)}")
    return int(days[follows[-1]]), int(days[follows[-1] + 1])


def _listed(days: np.ndarray, clicks: np.ndarray) -> str:
    """List the last twenty as ``2019-11-14 (123 clicks), …``."""
    text = [f"{iso(day)} ({count:,} clicks)" for day, count in zip(days[-20:], clicks[-20:], strict=True)]
    return ", ".join(["…"] * (len(days) > 20) + text)


class Mind(Reader):
    """Two consecutive days of clicks: the first trains, the second tests.

    A click is a shown item that ends in ``-1``. Kept are the users who clicked on both days; a click that a user
    repeats on the same day, or a training click repeated on the test day, is dropped. Lines without any click labels
    (all of MIND's test archive) are counted and passed over.
    """

    name = "mind"
    summary = "MIND news clicks as Microsoft ships them: one day trains, the next tests"
    noun = "news"
    source = "a MIND zip, or a folder with behaviors.tsv and news.tsv (or several such zips and folders)"

    class Config(BaseConfig):
        train_day: date | None = None
        """The day to train on, e.g. 2019-11-14. Default: the day before ``test_day``, else the last two whole days."""
        test_day: date | None = None
        """The day to test on. Default: the day after ``train_day``."""
        min_user: Annotated[int, Field(ge=1)] = 1
        """Users with fewer clicked items on either day are left out (repeated with ``min_item`` until both hold)."""
        min_item: Annotated[int, Field(ge=1)] = 1
        """Items clicked by fewer users, both days together, are left out."""
        valid: Fraction = 0.1
        """Fraction of the training clicks set aside to choose the model, newest first."""
        seed: Seed = 0
        """Chooses whose clicks validate."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        assert isinstance(config, self.Config)
        malformed = MalformedLines(ReadReport(), strict)
        report = malformed.report
        with ExitStack() as archives:
            behaviors, news = _files(existing(source, self), archives)
            blocks = (read_rows(file, BEHAVIORS, malformed, include=READ) for file in behaviors)
            parts = [_clicks(rows, malformed) for rows in chain.from_iterable(blocks)]
            news = pa.concat_tables([_news(file, malformed) for file in news])
        if not any(len(seconds) for *_, seconds in parts):
            message = f"no clicks in behaviors.tsv; dropped: {report.dropped}{report.first_malformed()}"
            raise BadInput(message, value=report.dropped, where="behaviors.tsv")
        user_parts, item_parts, seconds = zip(*parts, strict=True)
        (users, user_idx), (items, item_idx) = numbered(user_parts, "user"), numbered(item_parts, "item")
        time = np.concatenate(seconds)
        day = time // DAY
        train_day, test_day = two_days(time, config.train_day, config.test_day)

        for part, number in (("train", train_day), ("test", test_day)):
            report.counts[f"clicks read on {iso(number)}, the {part} day"] = int((day == number).sum())
        rows = np.flatnonzero((day == train_day) | (day == test_day))
        report.drop("click on another day", len(day) - len(rows))
        user_day = 2 * user_idx[rows] + (day[rows] == test_day)
        first = splits.first_of_pairs(user_day, item_idx[rows], time[rows])
        report.drop("click repeated on the same day", int((~first).sum()))
        rows = _active(rows[first], user_idx, item_idx, day == test_day, config, report)
        if not len(rows):
            remedy = "choose other days with --set train_day=… or lower min_user, min_item"
            days = f"{iso(train_day)} and {iso(test_day)}"
            raise BadInput(f"no user clicked on both {days} often enough; {remedy}")
        # every user stays, also one whose test clicks were all repeats: there is still a history to profile
        user_rows, user_idx = splits.ranked(user_idx[rows], len(users))
        item_rows, item_idx = splits.ranked(item_idx[rows], len(items))
        users, items = users.take(user_rows), items.take(item_rows)
        clicks, tested = Interactions(user_idx, item_idx, time[rows]), day[rows] == test_day
        pair = splits.pairs(user_idx, item_idx, len(items))
        again = tested & np.isin(pair, pair[~tested])
        report.drop("test click that repeats a training click", int(again.sum()))
        train, test = clicks.take(~tested), clicks.take(tested & ~again)
        candidates, text = np.unique(item_idx[tested]), text_of(items, news, "id", TEXT)
        protocols = splits.protocols_of(candidates, np.setdiff1d(candidates, train.item_idx))
        generator = np.random.default_rng(config.seed)
        aside = splits.hold_out_validation(train.user_idx, train.timestamp, config.valid, generator)
        parts = (train.take(~aside), train.take(aside), test)
        return splits.finished(Dataset(self.name, users, items, *parts, text, protocols, TEMPLATE, report))


def _clicks(
    rows: Rows, malformed: MalformedLines
) -> tuple[pa.DictionaryArray, pa.DictionaryArray, np.ndarray]:
    """Return users, items and times ``(n,)`` of the clicks in some lines of behaviors.tsv."""
    rows = rows.reject(pc.equal(rows["user"], "").to_numpy(), "no user id", malformed)
    time = pc.strptime(rows["time"], format="%m/%d/%Y %I:%M:%S %p", unit="s", error_is_null=True)
    bad = time.is_null().to_numpy()
    rows = rows.reject(bad, "the time is not like 11/15/2019 8:55:22 AM", malformed)
    time = time.filter(pa.array(~bad))
    impressions = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(rows["impressions"])).combine_chunks()
    tokens, line = impressions.flatten(), pc.list_parent_indices(impressions).to_numpy()
    clicked, passed = (pc.ends_with(tokens, end).to_numpy(zero_copy_only=False) for end in ("-1", "-0"))
    short = pc.binary_length(tokens).to_numpy() < 3  # no id is left when the label is cut off
    count, labels, nameless = (
        np.bincount(line[mask], minlength=len(rows))
        for mask in (slice(None), clicked | passed, (clicked | passed) & short)
    )
    bare = labels == 0
    mixed = ((labels < count) & ~bare) | (nameless > 0)
    malformed.report.drop("impression without click labels", int(bare.sum()))
    rows.reject(mixed, "impressions are not like N123-1 N456-0", malformed)
    clicked &= ~mixed[line]
    line = line[clicked]
    items = pc.utf8_slice_codeunits(tokens.filter(pa.array(clicked)), 0, -2)
    users = rows["user"].combine_chunks().take(pa.array(line))
    return pc.dictionary_encode(users), pc.dictionary_encode(items), time.cast(pa.int64()).to_numpy()[line]


def _active(
    rows: np.ndarray,
    user: np.ndarray,
    item: np.ndarray,
    tested: np.ndarray,
    config: Mind.Config,
    report: ReadReport,
) -> np.ndarray:
    """Return the rows of users with ``min_user`` clicks on each day and of items with ``min_item`` over both."""

    def on_each_day(rows: np.ndarray) -> np.ndarray:
        counts = np.bincount(2 * user[rows] + tested[rows], minlength=2 * (user.max() + 1))
        return counts.reshape(-1, 2).min(axis=1)[user[rows]]

    both = rows[on_each_day(rows) > 0]
    report.drop("click of a user not active on both days", len(rows) - len(both))
    active, left = both, -1
    while len(active) != left:
        left = len(active)
        popular = np.bincount(item[active])[item[active]] >= config.min_item
        active = active[popular & (on_each_day(active) >= config.min_user)]
    report.drop("click of a user or on an item with too few", len(both) - len(active))
    return active


def _files(source: Path, archives: ExitStack) -> tuple[list[TextFile], list[TextFile]]:
    """Return every behaviors.tsv under ``source`` (a zip or folder) and the news.tsv beside it."""
    behaviors, news = [], []
    for label, files in _places(source, archives):
        if "behaviors.tsv" in files:
            if "news.tsv" not in files:
                raise BadInput(f"{label} holds behaviors.tsv but no news.tsv beside it")
            behaviors.append(files["behaviors.tsv"]())
            news.append(files["news.tsv"]())
    if not behaviors:
        raise NotFound(f"no behaviors.tsv in {source}; --source must be {Mind.source}")
    return behaviors, news


def _places(source: Path, archives: ExitStack) -> Iterator[tuple[str, Mapping[str, Callable[[], TextFile]]]]:
    """Yield the label of each folder, on disk or in a zip, and by name what opens its files."""
    if source.is_file():
        try:
            archive = archives.enter_context(ZipFile(source))
        except (BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
            raise BadInput(f"{source} is no zip archive ({error}); --source must be {Mind.source}") from error
        folders: dict[str, dict[str, Callable[[], TextFile]]] = {}
        for member in archive.namelist():
            folder, _, name = member.rpartition("/")
            folders.setdefault(folder, {})[name] = partial(TextFile.in_zip, archive, member)
        yield from ((f"{source}/{folder}".rstrip("/"), folders[folder]) for folder in sorted(folders))
        return
    for folder in [source, *sorted(path for path in source.rglob("*") if path.is_dir())]:
        files = {path.name: partial(TextFile.on_disk, path) for path in folder.iterdir() if path.is_file()}
        yield str(folder), files
    for archive in sorted(source.rglob("*.zip")):
        if not archive.with_suffix("").is_dir():  # a zip beside its own contents is not read twice
            yield from _places(archive, archives)


def _news(file: TextFile, malformed: MalformedLines) -> pa.Table:
    """Return item ids and text fields of a news.tsv; columns behind the abstract may be missing."""
    width = len(file.first_row("\t"))
    columns = NEWS[:width] if len(TEXT) < width <= len(NEWS) else NEWS
    return read_all(file, columns, malformed, include=NEWS[:5]).table
