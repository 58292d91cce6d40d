"""RecBole's atomic files, read and written without RecBole.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html. Lines are tab-separated, the first names the columns
and their types: ``user_id:token  item_id:token  rating:float  timestamp:float``. There is no quoting.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from reclm.data.dataset import Dataset, Interactions
from reclm.data.delimited import Rows, TextFile, read_all
from reclm.data.reader import MalformedLines
from reclm.errors import ReclmError
from reclm.workspace import make_folder

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class AtomicTable:
    """An atomic file: ``types`` of all columns by name, and the rows with all values as strings.

    Sequences of tokens stay one string with spaces between; vectors (``float_seq``) are left out of the rows.
    """

    types: dict[str, str]
    rows: Rows

    def text_fields(self) -> list[str]:
        """The columns of tokens, which may say something to a reader; numbers do not."""
        return [name for name, kind in self.types.items() if kind in ("token", "token_seq")]


def find_stem(source: Path, dataset: str = "") -> Path:
    """``folder/NAME`` of the files ``NAME.inter``, ``NAME.item``, … in ``source``, a folder or one of its files.

    Args:
        dataset: NAME, needed where a folder holds several data sets.

    Raises:
        ReclmError: if there is no .inter file, or the choice is not clear.
    """
    folder = source if source.is_dir() else source.parent
    if source.is_file() and source.suffix != ".inter":
        raise ReclmError(f"{source} is no .inter file; --source must be a folder of RecBole atomic files")
    names = {_name(path) for path in ([source] if source.is_file() else folder.glob("*.inter"))}
    if not names:
        raise ReclmError(f"no .inter file in {folder}; --source must be a folder of RecBole atomic files")
    if (dataset and dataset not in names) or (not dataset and len(names) > 1):
        known = ", ".join(sorted(names))
        raise ReclmError(f"{folder} holds the data sets {known}; choose one with --set dataset={min(names)}")
    return folder / (dataset or names.pop())


def _name(path: Path) -> str:
    name = path.name.removesuffix(".inter")
    head, _, last = name.rpartition(".")
    return head if last in SPLITS else name


def beside(stem: Path, ending: str) -> Path:
    """``folder/NAME.ending``."""
    return stem.with_name(f"{stem.name}.{ending}")


def read_atomic(path: Path, malformed: MalformedLines) -> AtomicTable:
    """All of an atomic file.

    Raises:
        ReclmError: if the file is missing, empty or has no typed header.
    """
    file = TextFile.on_disk(path)
    header = file.first_row("\t")
    types: dict[str, str] = {}
    for field in header:
        name, typed, kind = field.rpartition(":")
        if not typed or kind not in ("token", "token_seq", "float", "float_seq"):
            raise ReclmError(f"{path}:1: column {field!r} has no type; write it as in user_id:token")
        if name in types:
            raise ReclmError(f"{path}:1: two columns are called {name!r}")
        types[name] = kind
    wanted = [name for name, kind in types.items() if kind != "float_seq"]
    return AtomicTable(types, read_all(file, list(types), malformed, header=True, include=wanted))


def write_atomic(dataset: Dataset, folder: Path) -> None:
    """Write the splits, item text and ids of ``dataset`` as atomic files named after ``folder``, as RecBole wants.

    RecBole uses the splits with ``benchmark_filename: [train, valid, test]``; the reader ``recbole`` reads them back.
    In item text, tabs and line breaks become spaces, and double quotes single ones: RecBole would take a field that
    begins with a double quote to run on to the next one.

    Raises:
        ReclmError: if ``folder`` holds something already, or an id holds a tab, line break or double quote.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ReclmError(f"{folder} is not empty; choose a new folder with --out")
    users, items = dataset.users, dataset.items
    for ids in (users, items):
        odd = ids.array.filter(pc.match_substring_regex(ids.array, r'[\t\r\n"]'))
        if len(odd):
            raise ReclmError(f"{ids.what} id {odd[0].as_py()!r} cannot stand in an atomic file; rename it")
    make_folder(folder, "--out")
    stem = folder / folder.resolve().name

    def write(ending: str, columns: dict[str, pa.Array | pa.ChunkedArray]) -> None:
        table = pa.table({name: column.cast(pa.string()) for name, column in columns.items()})
        with beside(stem, ending).open("wb") as stream:
            # the header by hand: Arrow would quote it
            stream.write("\t".join(columns).encode() + b"\n")
            options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
            pa.csv.write_csv(table, stream, options)

    def interactions(part: Interactions) -> dict[str, pa.Array | pa.ChunkedArray]:
        columns = {
            "user_id:token": users.array.take(pa.array(part.user_idx)),
            "item_id:token": items.array.take(pa.array(part.item_idx)),
        }
        if part.rating is not None:
            columns["rating:float"] = pa.array(part.rating)
        if part.timestamp is not None:
            columns["timestamp:float"] = pa.array(part.timestamp)
        return columns

    for split in SPLITS:
        write(f"{split}.inter", interactions(getattr(dataset, split)))
    write("user", {"user_id:token": users.array})
    write(
        "item",
        {"item_id:token": items.array}
        | {
            f"{name}:token_seq": _one_line(dataset.item_text[name]) for name in dataset.item_text.column_names
        },
    )


def _one_line(text: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.replace_substring_regex(pc.fill_null(text, ""), r"[\t\r\n]", " ")
    return pc.replace_substring(text, '"', "'")
