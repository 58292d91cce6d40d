"""Readers of RecBole's atomic files: any data set's, and ml-100k's, which RecBole's wheel carries."""

import filecmp
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from reclm.config import Config as BaseConfig
from reclm.data.dataset import SPLITS, Dataset, Interactions, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.readers.base import MalformedLines, Reader, existing
from reclm.data.readers.columns import (
    LogColumns,
    find_column,
    id_map,
    interactions_of,
    read_log,
    text_of,
)
from reclm.data.readers.lines import Rows
from reclm.data.readers.records import read_all
from reclm.data.readers.text_file import TextFile
from reclm.data.readers.times import TimeUnit
from reclm.data.splits import SplitOptions, from_given, from_log
from reclm.errors import BadInput, NotFound
from reclm.files import atomic_folder
from reclm.folders import check_local


def find_stem(source: Path, dataset: str = "") -> Path:
    """Return ``folder/NAME`` of the files ``NAME.inter``, …; ``dataset`` is NAME, where a folder holds several."""
    folder = source if source.is_dir() else source.parent
    if source.is_file() and source.suffix != ".inter":
        raise BadInput(f"{source} is no .inter file; --source must be a folder of RecBole atomic files")
    names = {_name(path) for path in ([source] if source.is_file() else folder.glob("*.inter"))}
    if not names:
        raise NotFound(f"no .inter file in {folder}; --source must be a folder of RecBole atomic files")
    if (dataset and dataset not in names) or (not dataset and len(names) > 1):
        known = ", ".join(sorted(names))
        raise BadInput(f"{folder} holds the data sets {known}; choose one with --set dataset={min(names)}")
    return folder / (dataset or names.pop())


def _name(path: Path) -> str:
    name = path.name.removesuffix(".inter")
    head, _, last = name.rpartition(".")
    return head if last in SPLITS else name


def beside(stem: Path, ending: str) -> Path:
    """Return ``folder/NAME.ending``."""
    return stem.with_name(f"{stem.name}.{ending}")


def read_atomic(path: Path, malformed: MalformedLines) -> tuple[dict[str, str], Rows]:
    """Return the types of all columns by name, and the rows with all values as strings.

    Sequences of tokens stay one string with spaces between; vectors (``float_seq``) are left out of the rows.
    """
    file = TextFile.on_disk(path)
    header = file.header("\t")
    types: dict[str, str] = {}
    for field in header:
        name, typed, kind = field.rpartition(":")
        if not typed or kind not in ("token", "token_seq", "float", "float_seq"):
            raise BadInput(f"{path}:1: column {field!r} has no type; write it as in user_id:token")
        if name in types:
            raise BadInput(f"{path}:1: two columns are called {name!r}")
        types[name] = kind
    wanted = [name for name, kind in types.items() if kind != "float_seq"]
    return types, read_all(file, list(types), malformed, header=True, include=wanted)


def write_atomic(dataset: Dataset, folder: Path) -> None:
    """Write the splits, item text and ids of ``dataset`` as atomic files named after ``folder``, as RecBole wants.

    The folder appears as a whole or not at all; one that holds anything but these very files is refused. RecBole uses
    the splits with ``benchmark_filename: [train, valid, test]``; the reader ``recbole`` reads them back. In item text,
    tabs and line breaks become spaces, and double quotes single ones: RecBole would take a field that begins with a
    double quote to run on to the next one.
    """
    check_local(folder, "--out")
    for ids in (dataset.users, dataset.items):
        odd = ids.array.filter(pc.match_substring_regex(ids.array, r'[\t\r\n"]'))
        if len(odd):
            raise BadInput(f"{ids.what} id {odd[0].as_py()!r} cannot stand in an atomic file; rename it")
    with atomic_folder(folder) as draft:
        _write_files(dataset, draft / folder.resolve().name)
        if folder.exists() and not _empty_or_equal(folder, draft):
            raise BadInput(
                f"{folder} is not empty; choose a new folder with --out", value=folder, where="--out"
            )


def _empty_or_equal(folder: Path, draft: Path) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if not names:
        return True
    return names == {path.name for path in draft.iterdir()} and not any(
        filecmp.cmpfiles(folder, draft, names, shallow=False)[1:]
    )


def _write_files(dataset: Dataset, stem: Path) -> None:
    """Write the atomic files ``folder/NAME.…`` of a data set."""
    users, items = dataset.users, dataset.items

    def write(ending: str, columns: dict[str, pa.Array | pa.ChunkedArray]) -> None:
        table = pa.table({name: column.cast(pa.string()) for name, column in columns.items()})
        with beside(stem, ending).open("wb") as stream:
            # the header by hand: Arrow would quote it
            stream.write("\t".join(columns).encode() + b"\n")
            options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
            pa.csv.write_csv(table, stream, options)

    for split in SPLITS:
        part = dataset.split(split)
        ids = ((users, part.user_idx), (items, part.item_idx))
        columns = {f"{map_.what}_id:token": map_.array.take(pa.array(idx)) for map_, idx in ids}
        optional = {"rating:float": part.rating, "timestamp:float": part.timestamp}
        columns |= {name: pa.array(values) for name, values in optional.items() if values is not None}
        write(f"{split}.inter", columns)
    write("user", {"user_id:token": users.array})
    columns = {"item_id:token": items.array}
    for name in dataset.item_text.column_names:
        text = pc.fill_null(dataset.item_text[name], "")
        text = pc.replace_substring_regex(text, r"[\t\r\n]", " ")
        columns[f"{name}:token_seq"] = pc.replace_substring(text, '"', "'")
    write("item", columns)


class RecBole(Reader):
    """Atomic files of any data set: ``NAME.inter`` is needed, ``NAME.item`` gives the items' text.

    A log ``NAME.inter`` is split here (see :class:`~reclm.data.splits.SplitOptions`). Ready-made splits
    ``NAME.train.inter``, ``NAME.test.inter`` and, if there is one, ``NAME.valid.inter`` are taken as they are, the rows
    of ``NAME.user`` and ``NAME.item`` first; then ``full-shot`` ranks all items, and ``zero-shot`` those in neither
    train nor valid, if any of them is tested on.
    """

    name = "recbole"
    summary = "RecBole atomic files: NAME.inter, or NAME.train.inter and NAME.test.inter; NAME.item for text"
    source = "a folder of RecBole atomic files (NAME.inter, NAME.item)"

    class Config(SplitOptions):
        """Options of the reader; those for splitting do not touch ready-made splits."""

        dataset: str = ""
        """NAME, where the folder holds several data sets."""
        user_field: str = "user_id"
        """Column of user ids."""
        item_field: str = "item_id"
        """Column of item ids."""
        rating_field: str = "rating"
        """Column of ratings, if there is one."""
        time_field: str | None = "timestamp"
        """Column of times, if there is one; null takes none."""
        time_unit: TimeUnit = "s"
        """Unit of the times: since 1970, in s, ms, us or ns; ``date`` where 20170714 is a day."""
        label_field: str | None = "label"
        """Column of 0 and 1, if there is one; interactions labelled 0 are left out. null takes all for positives."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        assert isinstance(config, self.Config)
        stem = find_stem(existing(source, self), config.dataset)
        malformed = MalformedLines(ReadReport(), strict)
        described = _described(beside(stem, "item"), config.item_field, malformed)
        if beside(stem, "train.inter").is_file():
            return self._ready_made(stem, config, described, malformed)
        log = _log(beside(stem, "inter"), config, malformed)
        users, items = id_map("user", log["user"]), id_map("item", log["item"])
        log, text = (
            interactions_of(log, users, items),
            _item_text(items, described, config.item_field, malformed.report),
        )
        return from_log(self.name, users, items, log, text, config, malformed.report)

    def _ready_made(
        self, stem: Path, config: "RecBole.Config", described: Rows | None, malformed: MalformedLines
    ) -> Dataset:
        paths = {split: beside(stem, f"{split}.inter") for split in SPLITS}
        if not paths["test"].is_file():
            raise BadInput(f"{paths['train']} has no {paths['test'].name} beside it")
        logs = {split: _log(path, config, malformed) for split, path in paths.items() if path.is_file()}
        known = _described(beside(stem, "user"), config.user_field, malformed)
        user_ids = [] if known is None else [known[config.user_field]]
        item_ids = [] if described is None else [described[config.item_field]]
        users = id_map("user", *user_ids, *(log["user"] for log in logs.values()))
        items = id_map("item", *item_ids, *(log["item"] for log in logs.values()))
        parts = {split: interactions_of(log, users, items) for split, log in logs.items()}
        interactions = [parts.get(split, Interactions.empty()) for split in SPLITS]
        if described is not None:  # items may be described that nobody touched
            touched = id_map("item", *(log["item"] for log in logs.values()))
            _item_text(touched, described, config.item_field)
        text = _item_text(items, described, config.item_field, malformed.report)
        return from_given(self.name, users, items, interactions, text, malformed.report)


class Ml100k(Reader):
    """MovieLens-100k from RecBole's installed files (RecBole itself is not imported).

    All 100,000 ratings count as positives, the rating is kept as a column; ``min_rating`` leaves the lower ones out.
    Library-style titles are turned round: ``"Usual Suspects, The"`` is read as ``"The Usual Suspects"``.
    """

    name = "ml-100k"
    summary = "MovieLens-100k, which RecBole's wheel carries; a tenth of the films held out for zero-shot"
    source = "a folder with ml-100k.inter and ml-100k.item"
    embedded = True
    noun = "films"
    Config = SplitOptions
    template = "{title}[ ({year})][. {genre}]"

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """See :class:`Reader`; without a ``source`` the installed files are read."""
        assert isinstance(config, SplitOptions)
        stem = find_stem(existing(source, self) if source else _installed_ml_100k(), "ml-100k")
        malformed = MalformedLines(ReadReport(), strict)
        log = _log(beside(stem, "inter"), RecBole.Config(), malformed)
        users, items = id_map("user", log["user"]), id_map("item", log["item"])
        _, films = read_atomic(beside(stem, "item"), malformed)
        raw = text_of(items, films.table, "item_id", ["movie_title", "release_year", "class"])
        # one film of the 1,682 is unknown: its year is "V", its genre "unknown"
        year = pc.replace_substring_regex(raw["release_year"], r"^\D.*$", "")
        genre = pc.replace_substring(pc.replace_substring_regex(raw["class"], "^unknown$", ""), " ", ", ")
        text = pa.table({"title": titles_turned(raw["movie_title"]), "year": year, "genre": genre})
        log = interactions_of(log, users, items)
        return from_log(self.name, users, items, log, text, config, malformed.report, self.template)


def titles_turned(titles: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn ``"Seventh Seal, The (Sjunde inseglet, Det)"`` to ``"The Seventh Seal (Det Sjunde inseglet)"``."""
    article = r"(The|An?|L[aeo]s?|L'|Il|El|Une?|De[nrt]|Die|Das|O)"
    for pattern, turned in (
        (rf"^([^(]+), {article}( \(|$)", r"\2 \1\3"),
        (rf"\(([^()]+), {article}\)", r"(\2 \1)"),
        ("L' ", "L'"),
    ):
        titles = pc.replace_substring_regex(titles, pattern, turned)
    return titles


def _installed_ml_100k() -> Path:
    package = find_spec("recbole")
    if package is None or not package.submodule_search_locations:
        command = "pip install --no-deps recbole==1.2.0"
        raise BadInput(f"data set 'ml-100k' lies in the package recbole, which is not installed; {command}")
    return Path(package.submodule_search_locations[0]) / "dataset_example" / "ml-100k"


def _log(path: Path, config: RecBole.Config, malformed: MalformedLines) -> pa.Table:
    types, rows = read_atomic(path, malformed)
    columns = LogColumns.of(str(path), rows.table.column_names, config, "field")
    log = read_log([rows], columns, malformed, config.time_unit)
    for name, kind in types.items():
        if kind.endswith("_seq"):  # a history before the item, say, whose own times are not known
            malformed.report.count(f"interactions whose {name} ({kind}) is not read", len(log))
    return log


def _described(path: Path, id_field: str, malformed: MalformedLines) -> Rows | None:
    """Return the ids of users or items at ``path`` and their tokens, if there is such a file; numbers say nothing."""
    if not path.is_file():
        return None
    types, rows = read_atomic(path, malformed)
    find_column(str(path), id_field, rows.table.column_names, f"--set {path.suffix[1:]}_field=")
    rows = rows.reject(pc.equal(rows[id_field], "").to_numpy(), f"no {id_field}", malformed)
    tokens = [name for name, kind in types.items() if kind in ("token", "token_seq") or name == id_field]
    return Rows(rows.file, rows.table.select(tokens), rows.lines)


def _item_text(
    items: IdMap, described: Rows | None, id_field: str, report: ReadReport | None = None
) -> pa.Table:
    if described is None:
        return text_of(items)
    fields = [name for name in described.table.column_names if name != id_field]
    return text_of(items, described.table, id_field, fields, report)
