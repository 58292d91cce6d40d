"""Text files on disk, in remote file systems and in archives, read as UTF-8, and surveyed before DuckDB reads them."""

import codecs
import gzip
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple, Self

import duckdb

from reclm.errors import BadInput, Damaged, NotFound

LONGEST = 1 << 22  # bytes of the longest line that is read
FOREIGN = {
    rb"version https://git-lfs": ("a Git LFS pointer, not the file itself", "fetch that with git lfs pull"),
    rb"\s*<(!doctype html|html)": ("an HTML page", "download the file itself"),
    rb"\x1f\x8b": ("gzipped", "give it a name that ends in .gz"),
    rb"PK\x03\x04": ("a zip archive, or a spreadsheet", "unpack it, or save it as CSV"),
    rb"PAR1": ("Parquet", "give it a name that ends in .parquet"),
    rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd": ("compressed", "unpack it, or compress it with gzip"),
    rb"\xff\xfe\0\0|\0\0\xfe\xff": ("UTF-32", "convert it to UTF-8, or say so with --set encoding=utf-32"),
    rb"\xff\xfe|\xfe\xff": ("UTF-16", "convert it to UTF-8, or say so with --set encoding=utf-16"),
}
"""Beginnings of files that are no UTF-8 text: what they are, and the remedy."""


class Survey(NamedTuple):
    """Counts of a file: lines, and whether line ends differ or are carriage returns, it holds quotes, is UTF-8."""

    lines: int
    mixed: bool
    quotes: bool
    utf8: bool


@dataclass(frozen=True)
class TextFile:
    """A file on disk, in a remote file system or inside a zip archive; gzipped if its name ends in ``.gz``.

    ``label`` is for messages; ``path`` is for DuckDB, empty in an archive, where ``size`` is that of the unpacked file;
    ``register`` makes a connection know the file system.
    """

    label: str
    opener: Callable[[], Any]
    size: int
    path: str = ""
    encoding: str = "utf-8"
    register: Callable[[duckdb.DuckDBPyConnection], None] | None = None

    @classmethod
    def on_disk(cls, path: Path, encoding: str = "utf-8") -> Self:
        """Return the file at ``path``, which may be a :class:`~reclm.data.readers.base.RemotePath`."""
        if not path.is_file():
            raise NotFound(f"no such file: {path}", value=str(path))
        try:
            encoding = codecs.lookup(encoding).name
        except LookupError as error:
            message = f"encoding {encoding!r} is unknown; take utf-8, utf-16, latin-1, …"
            raise BadInput(message, value=encoding) from error
        register = getattr(path, "register", None)
        return cls(str(path), lambda: path.open("rb"), path.stat().st_size, str(path), encoding, register)

    @classmethod
    def in_zip(cls, archive: zipfile.ZipFile, member: str) -> Self:
        """Return the ``member`` of an open archive."""
        label = f"{archive.filename}/{member}"
        return cls(label, lambda: archive.open(member), archive.getinfo(member).file_size)

    def __post_init__(self) -> None:
        if not self.size:
            raise BadInput(f"{self.label} is empty", where=self.label)

    @property
    def literal(self) -> str:
        """The path as DuckDB is to read it, which takes some letters for a pattern of several paths."""
        return re.sub(r"([*?\[])", r"[\1]", self.path)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open the file for reading bytes, unpacked."""
        try:
            stream = self.opener()
        except (OSError, RuntimeError, zipfile.BadZipFile, ValueError, EOFError, struct.error) as error:
            raise BadInput(f"cannot open {self.label}: {error}", where=self.label) from error
        try:
            with stream:
                yield gzip.GzipFile(fileobj=stream) if self.label.endswith(".gz") else stream
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
            raise Damaged(f"{self.label} is damaged: {error}", where=self.label) from error

    def blocks(self) -> Iterator[bytes]:
        """Yield the text as UTF-8, some MiB at a time, never parted between a carriage return and its line feed."""
        decode = None if self.encoding == "utf-8" else codecs.getincrementaldecoder(self.encoding)().decode
        raw, rest, at_start = b" ", b"", True
        with self.open() as stream:
            while raw:
                raw = stream.read(LONGEST)
                if at_start and decode is None:
                    check_text(raw, self.label)
                at_start = False
                try:
                    block = rest + (raw if decode is None else decode(raw, not raw).encode())
                except UnicodeError as error:
                    message = f"{self.label} is not {self.encoding}: {error}"
                    raise BadInput(message, value=self.encoding) from error
                rest = b"\r" if raw and block.endswith(b"\r") else b""
                yield block[: len(block) - len(rest)]

    @cached_property
    def survey(self) -> Survey:
        """Counts of the whole file."""
        feeds = pairs = returns = length = 0
        quotes, utf8, last = False, True, b""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in self.blocks():
            if (at := block.find(b"\0")) >= 0:  # DuckDB ends a line there
                line = 1 + feeds + pairs + returns + len(re.findall(rb"\r\n|\n|\r", block[:at]))
                message = f"{self.label}:{line}: a NUL byte, which no text has; remove it, or name the file's encoding"
                raise BadInput(f"{message} (--set encoding=utf-16)", value=line, where=self.label)
            both = block.count(b"\r\n") if b"\r" in block else 0
            pairs, feeds = pairs + both, feeds + block.count(b"\n") - both
            returns += (block.count(b"\r") if b"\r" in block else 0) - both
            begins = [place for end in (b"\n", b"\r") if (place := block.find(end)) >= 0]
            if length + min(begins, default=len(block)) > LONGEST:
                message = f"{self.label} has a line of more than {LONGEST >> 20} MiB, not one record a line"
                raise BadInput(message, where=self.label)
            end = max(block.rfind(b"\n"), block.rfind(b"\r"))
            length = len(block) - 1 - end if begins else length + len(block)
            quotes = quotes or b'"' in block
            if utf8:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    utf8 = False
            last = block[-1:] or last
        utf8 = utf8 and not decoder.getstate()[0]
        lines = feeds + pairs + returns + (last not in (b"\n", b"\r"))
        return Survey(lines, bool(returns or (feeds and pairs)), quotes, utf8)

    @contextmanager
    def readable(self) -> Iterator[dict[str, str]]:
        """Yield ``path`` and ``compression`` of UTF-8 text with one kind of line end: the file, or a temporary copy."""
        if self.path and self.encoding == "utf-8" and not self.survey.mixed:
            yield {"path": self.literal, "compression": "gzip" if self.label.endswith(".gz") else "none"}
            return
        with NamedTemporaryFile(prefix="reclm-", suffix=".txt") as copy:
            for block in self.blocks():
                copy.write(block.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
            copy.flush()
            yield {"path": copy.name, "compression": "none"}

    def header(self, delimiter: str, quoting: bool = False) -> list[str]:
        """Return the column names in the first line; BadInput where it is not UTF-8."""
        names = self.first_row(delimiter, quoting)
        try:
            "".join(names).encode()
        except UnicodeEncodeError as error:
            message = f"{self.label}:1: the names of the columns are not {self.encoding}"
            message += "; convert the file, or name its encoding (--set encoding=latin-1, of a table)"
            raise BadInput(message, value=self.encoding, where=self.label) from error
        return names

    def first_row(self, delimiter: str, quoting: bool = False) -> list[str]:
        """Return the fields of the first line; bytes that are not UTF-8 are surrogates."""
        text = next(self.blocks(), b"").decode("utf-8-sig", errors="surrogateescape")
        if not quoting:
            return re.split(r"[\r\n]", text, maxsplit=1)[0].split(delimiter)
        text, fields = re.sub(r"\r\n?", "\n", text), []
        one = re.escape(delimiter)  # not by csv, which has a limit on the length of a value
        value = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)"|([^{one}\n]*))({one}|\n|$)')
        for match in value.finditer(text):
            quoted, plain, parted = match.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            if parted != delimiter:
                break
        return fields


def check_text(beginning: bytes, label: str) -> None:
    """Raise BadInput where a file begins as one that is no UTF-8 text does."""
    for pattern, (what, remedy) in FOREIGN.items():
        if re.match(pattern, beginning, re.IGNORECASE):
            raise BadInput(f"{label} is {what}; {remedy}", value=what, where=label, remedy=remedy)
