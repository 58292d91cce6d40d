"""What every reader of raw data is, and how it speaks of the lines it could not read."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from reclm.config import Config as BaseConfig
from reclm.console import printable
from reclm.data.dataset import Dataset, ReadReport
from reclm.errors import BadInput, NotFound

SHOWN = 5
"""How many malformed lines a report quotes; all are counted."""


class MalformedLines:
    """Where readers report lines they cannot use: counted and passed over or, if ``strict``, fatal.

    Args:
        report: receives the count, as ``dropped["malformed line"]``, and the first few lines.
        strict: stop at the first malformed line.
    """

    def __init__(self, report: ReadReport, strict: bool = False) -> None:
        self.report = report
        self.strict = strict

    def add(self, file: str, line: int, text: str, why: str) -> None:
        """Note one malformed line.

        Raises:
            BadInput: if ``strict``, with file, line number, text and what is wrong.
        """
        place = f"{file}:{line}: {printable(text, 160)}"
        if self.strict:
            raise BadInput(f"{place} ({why}); mend the line, or leave out --strict to pass over such lines")
        self.report.drop("malformed line")
        if len(self.report.malformed) < SHOWN:
            self.report.malformed.append(f"{place} ({why})")

    def count(self, number: int) -> None:
        """Count further malformed lines that need no quoting: ``SHOWN`` are quoted already."""
        self.report.drop("malformed line", number)


class Reader(ABC):
    """Turns raw files into a :class:`Dataset`. Registered by entry point under ``reclm.datasets``.

    Attributes:
        name: what users call it, and the default name of the data set.
        summary: one line for ``reclm data list``.
        source: what ``--source`` must point at, in words; empty for an ``embedded`` reader.
        embedded: needs no source: the data comes with an installed package.
        remote: reads a :class:`~reclm.data.readers.remote.RemotePath`, too.
        Config: its options, each with a default.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    embedded: ClassVar[bool] = False
    remote: ClassVar[bool] = False
    Config: ClassVar[type[BaseConfig]] = BaseConfig

    @abstractmethod
    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """Read ``source`` and split it. What is left out is counted, with the reason, in ``Dataset.report``.

        Args:
            source: the raw files; None only for an embedded reader.
            config: an instance of ``self.Config``.
            strict: stop at the first malformed line instead of passing over it.

        Raises:
            BadInput: if the source is missing, empty or of another format, or for a malformed line if ``strict``.
        """


def existing(source: Path | None, reader: Reader | type[Reader]) -> Path:
    """``source``, which must be there.

    Raises:
        BadInput: if no source was given or nothing lies there.
    """
    if source is None:
        raise BadInput(f"data set {reader.name!r} needs --source: {reader.source}")
    if not source.exists():
        raise NotFound(f"no such file or folder: {source}; --source must be {reader.source}")
    return source
