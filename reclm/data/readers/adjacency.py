"""Adjacency lists, ``user item item …`` a line: the format of LightGCN's authors and of many after them."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data import splits
from reclm.data.dataset import Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.readers.base import MalformedLines, Names, Reader, existing
from reclm.data.readers.delimited import read_rows
from reclm.data.readers.lines import Rows, TextFile
from reclm.data.splits import Fraction, Seed, finished
from reclm.errors import BadInput, NotFound

SPLITS = ("train", "valid", "test")
DIGITS = 18
"""Longest id: what is sure to fit 64 bits."""
NO_DELIMITER = "\x1f"
"""Stands in no list, so that a line is one field."""

MaskedSplit = Literal["train", "valid"]


class Adjacency(Reader):
    """A folder with ``train.txt``, ``test.txt`` and perhaps ``valid.txt``: lines of a user and all of its items there.

    Ids are whole numbers, and rows are in their order: where ids run from 0 without gaps, row and id are the same. A
    line with the user alone is a user without items; several lines of one user count as one. A user-item pair counts
    once, in the first of train, valid and test that has it. There are no times and there is no item text. The one
    protocol, ``full-shot``, ranks all items.
    """

    name = "adjacency"
    summary = "train.txt, valid.txt (optional), test.txt of lines `user item item …`: Gowalla, Yelp2018, Amazon-Book"
    source = "a folder with train.txt and test.txt, lines of `user item item …`"

    class Config(BaseConfig):
        """Options of the reader."""

        mask: Annotated[tuple[MaskedSplit, ...], Names, Field(min_length=1)] = ("train",)
        """The splits whose items a user cannot be recommended again at test. LightGCN's authors and LightGCN++'s mask
        training items only, so that validation items stay candidates; ``train,valid`` masks both."""
        valid: Fraction = 0.0
        """Without valid.txt: the fraction of each user's training items that is held out for validation (at least one
        of a user who has two)."""
        seed: Seed = 0
        """Chooses them."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """See :class:`Reader`."""
        assert isinstance(config, self.Config)
        folder = existing(source, self)
        present = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
        for split in ("train", "test"):
            if split not in present:
                raise NotFound(f"no {split}.txt in {folder}; --source must be {self.source}")
        if config.valid and "valid" in present:
            raise BadInput(
                f"{folder} has a valid.txt of its own; leave valid={config.valid:g} out, or remove the file"
            )
        malformed = MalformedLines(ReadReport(), strict)
        lists = [_read(folder / f"{split}.txt", malformed) for split in present]
        user_ids = np.unique(np.concatenate([one.listed for one in lists]))
        item_ids = np.unique(np.concatenate([one.item for one in lists]))
        user_idx = np.searchsorted(user_ids, np.concatenate([one.user for one in lists]))
        item_idx = np.searchsorted(item_ids, np.concatenate([one.item for one in lists]))
        part = np.repeat([SPLITS.index(split) for split in present], [len(one.item) for one in lists])
        # user, item and split as one number: sorted, the first of a pair is the one that counts
        pair, part = np.divmod(
            np.sort(splits.pairs(user_idx, item_idx, len(item_ids)) * len(SPLITS) + part), len(SPLITS)
        )
        first = np.diff(pair, prepend=-1) > 0
        malformed.report.drop("repeated interaction", len(first) - int(first.sum()))
        log = Interactions(*np.divmod(pair, max(len(item_ids), 1)))
        train, valid, test = (log.take(first & (part == which)) for which in range(len(SPLITS)))
        if config.valid:
            train, valid = _held_out(train, config.valid, np.random.default_rng(config.seed))
        items = IdMap(pa.array(item_ids), "item")
        return finished(
            Dataset(
                self.name,
                IdMap(pa.array(user_ids), "user"),
                items,
                train,
                valid,
                test,
                pa.table({"item_id": items.array}).select([]),
                (Protocol("full-shot", np.arange(len(items)), config.mask),),
                report=malformed.report,
            )
        )


class LastFM(Adjacency):
    """LastFM as LightGCN++'s authors released it: 1,885 users, 17,388 artists, 91,779 interactions.

    https://github.com/geon0325/LightGCNpp; ids are the release's numbers, names of artists are not in it.
    """

    name = "lastfm"
    summary = "LastFM, 1,885 users and 17,388 artists by number, as LightGCN++'s authors split it"


class _Lists:
    """What a file says: ``listed`` users (one a line), and the ``user`` and ``item`` ids of each interaction."""

    def __init__(self, blocks: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """``blocks``: of each, the ids line by line, and how many there are in each line."""
        none = np.empty(0, np.int64)
        ids = np.concatenate([none, *(ids for ids, _ in blocks)])
        counts = np.concatenate([none, *(counts for _, counts in blocks)])
        heads = np.zeros(len(ids), bool)
        heads[np.cumsum(counts) - counts] = True
        self.listed = ids[heads]
        self.user = np.repeat(self.listed, counts - 1)
        self.item = ids[~heads]


def _read(path: Path, malformed: MalformedLines) -> _Lists:
    rows = read_rows(TextFile.on_disk(path), ["line"], malformed, delimiter=NO_DELIMITER)
    return _Lists([_ids(block, malformed) for block in rows])


def _ids(rows: Rows, malformed: MalformedLines) -> tuple[np.ndarray, np.ndarray]:
    """All ids of the lines ``(n,)`` int64, and how many each line has; lines with anything else are malformed."""
    text = pc.ascii_trim_whitespace(rows["line"].combine_chunks())
    filled = pc.greater(pc.binary_length(text), 0).to_numpy(zero_copy_only=False)
    rows, text = rows.keep(filled), text.filter(pa.array(filled))
    lists = pc.ascii_split_whitespace(text)
    words = lists.flatten()
    whole = pc.and_(pc.ascii_is_decimal(words), pc.less_equal(pc.binary_length(words), DIGITS))
    whole = whole.to_numpy(zero_copy_only=False)
    line = lists.value_parent_indices().to_numpy()
    bad = np.zeros(len(lists), bool)
    bad[line[~whole]] = True
    rows.reject(bad, "an id that is no whole number", malformed)
    kept = words.filter(pa.array(~bad[line])).cast(pa.int64())
    return kept.to_numpy(), lists.value_lengths().to_numpy()[~bad].astype(np.int64)


def _held_out(
    train: Interactions, fraction: float, generator: np.random.Generator
) -> tuple[Interactions, Interactions]:
    part = splits.per_user_temporal(train.user_idx, None, fraction, 0, generator)
    return train.take(part == splits.TRAIN), train.take(part == splits.VALID)
