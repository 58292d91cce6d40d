"""Mutations of files: of bytes, of the cells of text tables, of the tree of a JSON or YAML value, of Parquet tables.

Flipped bytes seldom get past the first check of a structured file, so each kind of file is changed as its kind, too:
cells, keys and columns are replaced by values that are legal and odd. Every mutation draws from the generator it is
given, so that a case is the same each time.
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Mutation = Callable[[bytes, Random], bytes]

BYTES = (
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b'"',
    b'""',
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x80",
    b"\xed\xa0\xbd",
    b"\t",
    b",",
)
TEXTS = (
    "", " ", "0", "-1", "1e308", "nan", "inf", "-inf", "1_000", "2147483648", "9" * 40, "0x1f", "104.0", "007", "null",
    "None", "true", "NaN", "2024-02-30", "2024-01-01T00:00:00Z", "1999-01-01 00:00:00 UTC", "01/02/2003 04:05:06 PM",
    '"', '""', 'a"b', "a,b", "a\tb", "a\nb", "a\r\nb", "\0", "\u202e", "\u2028", "\ud83d", "🎬", "é", "e\u0301",
    "x" * 5000, "<p>&nbsp;</p>", "<|im_start|>system", "{title}", "../../etc", "-", ".", "[]", "{}", "[[[[", "'", "`",
    "%s", "$x",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", [], {},
    [[]], [None], {"a": {}}, ["x"] * 3, {"": ""}, "\ud83d", "\0", "9" * 30,
)  # fmt: skip


def raw(data: bytes, random: Random) -> bytes:
    """Flip, insert, delete, repeat or cut bytes, once to four times."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at, more = random.randrange(len(data) + 1), random.randrange(1, 40)
        match random.randrange(6):
            case 0 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + random.choice(BYTES) + data[at:]
            case 2:
                data = data[:at] + data[at + more :]
            case 3:
                data = data[:at] + data[at : at + more] * random.randrange(2, 5) + data[at + more :]
            case 4 if random.random() < 0.3:
                data = data[:at]
            case _:
                data = data[:at] + random.randbytes(random.randrange(1, 9)) + data[at:]
    return data


def cells(delimiter: str) -> Mutation:
    """Return a mutation of the cells, lines and line ends of delimited text."""

    def mutate(data: bytes, random: Random) -> bytes:
        lines = [line.split(delimiter) for line in data.decode("utf-8", "replace").split("\n")]
        for _ in range(random.choice((1, 1, 2, 5))):
            line = random.randrange(len(lines))
            cell = random.randrange(len(lines[line]))
            match random.randrange(8):
                case 0 | 1 | 2:
                    lines[line][cell] = random.choice(TEXTS)
                case 3:
                    value = lines[line][cell].replace('"', '""')
                    lines[line][cell] = f'"{value}{random.choice(TEXTS)}"'
                case 4:
                    lines[line].insert(cell, random.choice(TEXTS))
                case 5:
                    del lines[line][cell]
                    lines[line] = lines[line] or [""]
                case 6:
                    lines.insert(line, list(random.choice(lines)))
                case _:
                    lines[line] = [""]
        text = random.choice(("\n", "\n", "\n", "\n", "\r\n", "\r")).join(map(delimiter.join, lines))
        encoding = random.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"))
        return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")

    return mutate


def changed_tree(value: Any, random: Random) -> Any:
    """Return a copy of nested lists and mappings in which one node is replaced, deleted, doubled or wrapped."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        rest = dict(value)
        match random.randrange(8):
            case 0:
                del rest[key]
            case 1:
                rest[random.choice(TEXTS)] = random.choice(VALUES)
            case 2:
                rest[random.choice(TEXTS)] = rest.pop(key)
            case _:
                rest[key] = changed_tree(value[key], random)
        return rest
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        match random.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * 3 + value[at:]
            case _:
                return [*value[:at], changed_tree(value[at], random), *value[at + 1 :]]
    return random.choice((*VALUES, [value], {"x": value}, random.choice(TEXTS)))


def json_tree(data: bytes, random: Random) -> bytes:
    """Change one node of a JSON document; ``nan`` and lone surrogates are written as Python's encoder writes them."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data, random)
    return json.dumps(changed_tree(value, random), ensure_ascii=random.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def json_lines(data: bytes, random: Random) -> bytes:
    """Change a node in one or several lines of JSON."""
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 3))):
        at = random.randrange(len(lines))
        lines[at] = (
            json_tree(lines[at], random) if lines[at] else random.choice((b"1", b"[]", b"{", b"null", b" "))
        )
    return b"\n".join(lines)


TAGS = (
    '!!int ""',
    "!!timestamp x",
    "!!binary '*'",
    "!!python/object:os.system x",
    "&a [*a]",
    "[" * 3000,
    "!!float x",
    "2024-13-45",
)


def yaml_tree(data: bytes, random: Random) -> bytes:
    """Change one node of a YAML document, or put a tag or an alias that safe YAML may stumble over into it."""
    if random.random() < 0.2:
        lines = data.decode("utf-8", "replace").split("\n")
        at = random.randrange(len(lines))
        key = lines[at].partition(":")[0]
        lines[at] = f"{key}: {random.choice(TAGS)}"
        return "\n".join(lines).encode()
    try:
        text = yaml.safe_dump(changed_tree(yaml.safe_load(data), random), sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return raw(data, random)
    return text.encode("utf-8", "surrogatepass")


def _shuffled_values(column: pa.ChunkedArray, random: Random) -> pa.Array:
    values = column.to_pylist()
    for _ in range(min(len(values), 3)):
        values[random.randrange(len(values))] = values[random.randrange(len(values))]
    return pa.array(values, column.type)


def _drawn(choices: Sequence[Any], kind: pa.DataType) -> Callable[[pa.ChunkedArray, Random], pa.Array]:
    return lambda column, random: pa.array([random.choice(choices) for _ in range(len(column))], kind)


ENCODED = tuple(text for text in TEXTS if "\ud83d" not in text)
COLUMNS: tuple[Callable[[pa.ChunkedArray, Random], Any], ...] = (
    lambda column, random: pa.nulls(len(column), column.type),
    lambda column, random: pa.nulls(len(column)),
    lambda column, random: column.cast(pa.string()).dictionary_encode(),
    lambda column, random: pa.array([random.randbytes(4) for _ in range(len(column))], pa.binary()),
    lambda column, random: pa.array([{"a": row} for row in range(len(column))]),
    _drawn((None, float("nan"), 1.5, -1.0, 1e300), pa.float64()),
    _drawn((None, 2**62, -1, 0), pa.int64()),
    _drawn((None, [1, 2], []), pa.list_(pa.int64())),
    _drawn((True, False, None), pa.bool_()),
    _drawn(range(0, 2**31, 12_345_678), pa.timestamp("ns")),
    _drawn(ENCODED, pa.string()),
    _drawn(ENCODED, pa.large_string()),
    _shuffled_values,
)
"""What may stand in a column's place."""


def parquet(data: bytes, random: Random) -> bytes:
    """Change a column of a Parquet table: its type, values, name or place; or drop, repeat or cut rows."""
    try:
        return _parquet(pq.read_table(io.BytesIO(data)), random)
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        OverflowError,
    ):  # damaged, or no such column can be
        return raw(data, random)


def _parquet(table: pa.Table, random: Random) -> bytes:
    names = list(table.column_names)
    at = random.randrange(len(names))
    match random.randrange(8):
        case 0:
            table = table.remove_column(at)
        case 1:
            names[at] = random.choice(ENCODED)
            table = table.rename_columns(names)
        case 2:
            table = table.add_column(
                at, names[random.randrange(len(names))], table.column(random.randrange(len(names)))
            )
        case 3:
            table = table.slice(random.randrange(len(table) + 1))
        case 4:
            table = pa.concat_tables([table, table])
        case _:
            table = table.set_column(at, names[at], random.choice(COLUMNS)(table.column(at), random))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def gzipped(inner: Mutation) -> Mutation:
    """Return a mutation of what a gzip file holds, and sometimes of the file itself."""

    def mutate(data: bytes, random: Random) -> bytes:
        try:
            content = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):  # changed already
            return raw(data, random)
        if random.random() < 0.3:
            return raw(data, random)
        changed = gzip.compress(inner(content, random), mtime=0)
        return changed * 2 if random.random() < 0.1 else changed

    return mutate


def zipped(inner: Mutation) -> Mutation:
    """Return a mutation of one member of a zip file, of the names of members, or of the file itself."""

    def mutate(data: bytes, random: Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
        except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
            members = {}
        if not members or random.random() < 0.3:
            return raw(data, random)
        name = random.choice(list(members))
        match random.randrange(6):
            case 0:
                del members[name]
            case 1:
                members[random.choice(("../../x.tsv", "MIND/" + name, "/abs/" + name, ""))] = members.pop(
                    name
                )
            case _:
                members[name] = inner(members[name], random)
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for member, content in members.items():
                archive.writestr(zipfile.ZipInfo(member), content)
        return sink.getvalue()

    return mutate


def safetensors(data: bytes, random: Random) -> bytes:
    """Change the header of a safetensors file as JSON, or the bytes of its tensors."""
    size = int.from_bytes(data[:8], "little")
    if size > len(data):
        return raw(data, random)
    if random.random() < 0.5:
        return (
            raw(data, random) if random.random() < 0.5 else data[: 8 + size] + raw(data[8 + size :], random)
        )
    header = json_tree(data[8 : 8 + size], random)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def torch_tree(data: bytes, random: Random) -> bytes:
    """Change one node of what torch saved; a tensor gets another shape or type, or other values."""
    import torch

    def tensor(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            changes = (
                value[None],
                value.flatten()[:1],
                value.double(),
                value.long(),
                value * 2,
                value.flatten(),
            )
            return random.choice(changes) if random.random() < 0.3 else value
        if isinstance(value, dict):
            return {key: tensor(part) for key, part in value.items()}
        return [*map(tensor, value)] if isinstance(value, list) else value

    try:
        value = torch.load(io.BytesIO(data), weights_only=True)
        changed = tensor(value) if random.random() < 0.4 else changed_tree(value, random)
        torch.save(changed, sink := io.BytesIO())
    except Exception:  # changed already; torch has errors of every kind
        return raw(data, random)
    return sink.getvalue()


KINDS: dict[str, tuple[Mutation, ...]] = {
    ".csv": (cells(","), cells(","), raw),
    ".tsv": (cells("\t"), cells("\t"), raw),
    ".inter": (cells("\t"), cells("\t"), raw),
    ".item": (cells("\t"), cells("\t"), raw),
    ".txt": (cells(" "), cells(" "), raw),
    ".json": (json_tree, json_tree, raw),
    ".jsonl": (json_lines, json_lines, raw),
    ".yaml": (yaml_tree, yaml_tree, raw),
    ".parquet": (parquet, parquet, raw),
    ".csv.gz": (gzipped(cells(",")),),
    ".jsonl.gz": (gzipped(json_lines),),
    ".zip": (zipped(cells("\t")),),
    ".safetensors": (safetensors, safetensors, raw),
    ".pt": (torch_tree, torch_tree, raw),
}
"""Mutations by the ending of a file's name; any other file is changed byte by byte."""


def mutate(name: str, data: bytes, random: Random) -> bytes:
    """Return ``data``, the content of a file called ``name``, changed in a way that fits its kind."""
    endings = [ending for ending in KINDS if name.endswith(ending)]
    choices = KINDS[max(endings, key=len)] if endings else (raw,)
    return random.choice(choices)(data, random)
