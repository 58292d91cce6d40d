"""What a report can show besides a record, from two files in the run's folder: example users, and profiles measured.

``examples.json`` holds a list of :class:`Example`, ``profiles.json`` a list of :class:`Quality`.
"""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import Field, model_validator

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import ReclmError

EXAMPLES, PROFILES = "examples.json", "profiles.json"


class Example(Config):
    """A user: what they read, what was written about them, and what each line recommends them."""

    user_id: str
    history: tuple[str, ...]
    """Item texts, the newest first."""
    profile: str | None = None
    """None: no profile was written."""
    top: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Line to the texts of the items that it ranks highest, the best first."""
    hits: dict[str, tuple[bool, ...]] = Field(default_factory=dict)
    """Line to which of those the user has in the test part; a line that is left out has none."""

    @model_validator(mode="after")
    def _consistent(self) -> "Example":
        for line, hits in self.hits.items():
            if len(hits) != len(self.top.get(line, ())):
                raise ValueError(f"{line}: {len(hits)} hits of {len(self.top.get(line, ()))} items")
        return self

    def ranked(self, line: str) -> list[tuple[str, bool]]:
        """The items of a line, each with whether it is a hit."""
        items = self.top[line]
        return list(zip(items, self.hits.get(line, (False,) * len(items)), strict=True))


class Quality(Config):
    """The profiles of one writer and kind, measured. What is None was not measured."""

    writer: str
    kind: ProfileKind
    profiles: int = Field(ge=0)
    distinct: int | None = Field(default=None, ge=0)
    """Different texts among them."""
    words: float | None = Field(default=None, ge=0)
    """Of a profile, on average."""
    in_format: float | None = Field(default=None, ge=0, le=1)
    """The share that has the form asked for."""
    prompt_tokens: int | None = Field(default=None, ge=0)
    """Of all prompts together."""
    new_tokens: int | None = Field(default=None, ge=0)
    """Written, all together."""
    seconds: float | None = Field(default=None, ge=0)
    """Of writing them all."""


Kind = TypeVar("Kind", Example, Quality)


def read_examples(folder: Path) -> list[Example]:
    """The users in ``examples.json``; none without the file.

    Raises:
        ReclmError: if it is damaged.
    """
    return _read(folder / EXAMPLES, Example)


def read_profiles(folder: Path) -> list[Quality]:
    """What ``profiles.json`` says of each writer; nothing without the file.

    Raises:
        ReclmError: if it is damaged.
    """
    return _read(folder / PROFILES, Quality)


def _read(path: Path, kind: type[Kind]) -> list[Kind]:
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReclmError(f"{path} is damaged ({error}); remove it, or run reclm bench again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ReclmError(f"{path} should hold a list of mappings; remove it, or run reclm bench again")
    return [kind.build(row, where=f"{path}, number {at}") for at, row in enumerate(rows, start=1)]
