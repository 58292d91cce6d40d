"""Adjacency lists, ``user item item …`` a line: the format of LightGCN's authors and of many after them."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data import splits
from reclm.data.dataset import SPLITS, Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.readers.base import MalformedLines, Names, Reader, existing
from reclm.data.readers.lines import Rows
from reclm.data.readers.records import read_rows
from reclm.data.readers.text_file import TextFile
from reclm.data.splits import Fraction, Seed, finished
from reclm.errors import BadInput, NotFound

DIGITS = 18  # of the longest id: what is sure to fit 64 bits
NO_DELIMITER = "\x1f"  # stands in no list, so that a line is one field


class Adjacency(Reader):
    """A folder with ``train.txt``, ``test.txt`` and perhaps ``valid.txt``: lines of a user and all of its items there.

    Ids are whole numbers, and rows are in their order: where ids run from 0 without gaps, row and id are the same.
    ``007`` is another id than ``7``. A line with the user alone is a user without items; several lines of one user
    count as one. A user-item pair counts once, in the first of train, valid and test that has it. There are no times
    and there is no item text. The one protocol, ``full-shot``, ranks all items.
    """

    name = "adjacency"
    summary = "train.txt, valid.txt (optional), test.txt of lines `user item item …`: Gowalla, Yelp2018, Amazon-Book"
    source = "a folder with train.txt and test.txt, lines of `user item item …`"

    class Config(BaseConfig):
        mask: Annotated[tuple[Literal["train", "valid"], ...], Names, Field(min_length=1)] = ("train",)
        """The splits whose items a user cannot be recommended again at test. LightGCN's authors and LightGCN++'s mask
        training items only, so that validation items stay candidates; ``train,valid`` masks both."""
        valid: Fraction = 0.0
        """Without valid.txt: the fraction of each user's training items that is held out for validation (at least one
        of a user who has two)."""
        seed: Seed = 0
        """Chooses them."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        assert isinstance(config, self.Config)
        folder = existing(source, self)
        present = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
        for split in ("train", "test"):
            if split not in present:
                raise NotFound(f"no {split}.txt in {folder}; --source must be {self.source}")
        if config.valid and "valid" in present:
            wrong = f"leave valid={config.valid:g} out, or remove the file"
            raise BadInput(f"{folder} has a valid.txt of its own; {wrong}")
        malformed = MalformedLines(ReadReport(), strict)
        lists = [_read(folder / f"{split}.txt", malformed) for split in present]
        listed, user, item = map(np.concatenate, zip(*lists, strict=True))
        user_ids, item_ids = np.unique(listed), np.unique(item)
        user_idx, item_idx = np.searchsorted(user_ids, user), np.searchsorted(item_ids, item)
        part = np.repeat([SPLITS.index(split) for split in present], [len(items) for _, _, items in lists])
        # user, item and split as one number: sorted, the first of a pair is the one that counts
        keys = np.sort(splits.pairs(user_idx, item_idx, len(item_ids)) * len(SPLITS) + part)
        pair, part = np.divmod(keys, len(SPLITS))
        first = np.diff(pair, prepend=-1) > 0
        malformed.report.drop("repeated interaction", len(first) - int(first.sum()))
        log = Interactions(*np.divmod(pair, max(len(item_ids), 1)))
        train, valid, test = (log.take(first & (part == which)) for which in range(len(SPLITS)))
        if config.valid:
            generator = np.random.default_rng(config.seed)
            part = splits.per_user_temporal(train.user_idx, None, config.valid, 0, generator)
            train, valid = train.take(part == splits.TRAIN), train.take(part == splits.VALID)
        users, items = IdMap(_texts(user_ids), "user"), IdMap(_texts(item_ids), "item")
        no_text = pa.table({"item_id": items.array}).select([])
        protocols = (Protocol("full-shot", np.arange(len(items)), config.mask),)
        parts, report = (train, valid, test), malformed.report
        return finished(Dataset(self.name, users, items, *parts, no_text, protocols, report=report))


class LastFM(Adjacency):
    """LastFM as LightGCN++'s authors released it, without names: https://github.com/geon0325/LightGCNpp."""

    name = "lastfm"
    noun = "artists"
    summary = "LastFM, 1,885 users and 17,388 artists by number, as LightGCN++'s authors split it"


def _read(path: Path, malformed: MalformedLines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the users listed, one a line, and the user and the item of each interaction: numbers of :func:`_ids`."""
    rows = read_rows(TextFile.on_disk(path), ["line"], malformed, delimiter=NO_DELIMITER)
    none = np.empty(0, np.int64)
    blocks = [(none, none), *(_ids(block, malformed) for block in rows)]
    ids, counts = map(np.concatenate, zip(*blocks, strict=True))
    heads = np.zeros(len(ids), bool)
    heads[np.cumsum(counts) - counts] = True
    listed = ids[heads]
    return listed, np.repeat(listed, counts - 1), ids[~heads]


def _ids(rows: Rows, malformed: MalformedLines) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all lines, and their number a line; lines with anything else are malformed.

    An id is the int64 of its digits behind a 1, which keeps leading zeros apart, and the order of all others.
    """
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
    ids = pc.binary_join_element_wise("1", words.filter(pa.array(~bad[line])), "").cast(pa.int64())
    return ids.to_numpy(), lists.value_lengths().to_numpy()[~bad].astype(np.int64)


def _texts(ids: np.ndarray) -> pa.Array:
    """Return the numbers of :func:`_ids` as they were written."""
    return pc.utf8_slice_codeunits(pa.array(ids).cast(pa.string()), 1)
