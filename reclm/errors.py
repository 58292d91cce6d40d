"""Errors that a user can correct: ``except ReclmError`` catches them all."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral
from typing import Any

if "_FACE" not in vars(sys.modules["reclm"]):
    raise ImportError(
        "another project's package 'reclm' has overwritten files of reclm-toolkit; "
        "run: pip uninstall reclm && pip install --force-reinstall --no-deps reclm-toolkit"
    )

EXTRAS = {
    "llm": (
        *("gguf", "huggingface_hub", "jinja2", "llguidance", "platformdirs"),
        *("sentence_transformers", "sklearn", "tokenizers", "transformers"),
    ),
    "cpu": ("openvino", "openvino_genai"),
    "tune": ("accelerate", "datasets", "peft", "pyphen", "trl"),
    "bench": ("matplotlib", "optuna", "tensorboard"),
    "openai": ("anyio", "openai"),
    "mlflow": ("alembic", "mlflow", "sqlalchemy"),
    "pyg": ("torch_geometric",),
    "recbole": ("recbole",),
}
"""Modules of each extra of the distribution: what the core does not install."""


LONGEST = 1_200


def one_line(text: str) -> str:
    """Return ``text`` as one printable line: a long one without its middle, for the remedy stands at the end.

    Texts from data and from libraries are part of messages: what is not printable, and could turn the line round, clear
    the screen or begin another line, is escaped.
    """
    line = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text.split())
    )
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} … {line[-LONGEST // 3 :]}"


class ReclmError(Exception):
    """A mistake in the input. The message is one line: what, where, the value, the remedy; exit code 2.

    Args:
        message: the line.
        value: the value at fault, for programs.
        where: the file, option or record that holds it.
        remedy: a name, value or command that would work.
    """

    def __init__(self, message: str, *, value: Any = None, where: Any = None, remedy: str = "") -> None:
        super().__init__(one_line(message))
        self.value, self.where, self.remedy = value, where, remedy


class BadInput(ReclmError, ValueError):
    """A value, option or file content that cannot be used."""


class NotFound(ReclmError, LookupError):
    """A name, id, file or artefact that does not exist."""


class Damaged(ReclmError):
    """A file or folder whose content is not what was written there."""


class Busy(ReclmError):
    """Another process holds what is asked for."""


class MissingExtra(ReclmError, ImportError):
    """A package that is not installed; ``remedy`` is the command that installs it."""


class Leak(ReclmError):
    """A profile, a split or a tuned model that carries information of the test part."""


def near(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three names like ``name``, best first; none among so many that the search takes over a second."""
    if len(known) > 20_000:
        return []
    alike = [other for other in known if other.casefold() == name.casefold()]
    return list(dict.fromkeys([*alike, *get_close_matches(name, known, n=3, cutoff=0.5)]))[:3]


def unknown(what: str, name: str, known: Iterable[str], option: str = "") -> NotFound:
    """Return the error for a name that is not among ``known``, offering the nearest one, and the ``option`` to give."""
    known = sorted(map(str, known))
    nearest = (*near(str(name), known), "")[0]
    hint = f"did you mean {nearest!r}? " if nearest else ""
    message = f"unknown {what} {name!r}; {hint}known: {', '.join(known)}"
    how = f"; name it with {option}{nearest or 'NAME'}" if option else ""
    return NotFound(
        message + how, value=name, where=what, remedy=option + (nearest or "NAME") if option else nearest
    )


def at_least(least: int, **options: Any) -> None:
    """Raise BadInput unless each option is a whole number of at least ``least``, or None."""
    for name, value in options.items():
        if value is not None and (not isinstance(value, Integral) or value < least):
            message = f"{name} = {value!r}: give a whole number of at least {least}"
            raise BadInput(message, value=value, where=name)


def check_seed(**options: Any) -> None:
    """Raise BadInput unless each option is a whole number from 0 to 2⁶³ − 1, as generators take them."""
    for name, value in options.items():
        if not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
            message = f"{name} = {value!r}: give a whole number of at least 0 and below 2**63"
            raise BadInput(message, value=value, where=name, remedy=f"{name}=0")


def check_type(where: str, value: Any, kinds: type | tuple[type, ...], remedy: str) -> None:
    """Raise BadInput unless ``value`` is an instance of ``kinds``; ``remedy`` says how to come by one."""
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        message = f"{where} is of type {type(value).__name__}, not {names}; {remedy}"
        raise BadInput(message, value=value, where=where, remedy=remedy)


def check_utf8(text: str, where: str) -> None:
    """Raise BadInput for a text with bytes that are not UTF-8, which Python reads as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        remedy = "type it in UTF-8; a file is to be renamed"
        message = f"{where}: {text[:200]!r} holds bytes that are not UTF-8, from character {error.start + 1}"
        raise BadInput(f"{message}; {remedy}", value=text, where=where, remedy=remedy) from error


def missing_extra(
    error: ModuleNotFoundError, what: str, instead: Mapping[str, str] | None = None
) -> MissingExtra:
    """Return the error with the command that installs what is missing; ``instead`` maps an extra to one with more."""
    module = (error.name or "").partition(".")[0]
    if module in {"", "reclm"}:
        raise error
    extra = next((name for name, modules in EXTRAS.items() if module in modules), "")
    extra = (instead or {}).get(extra, extra)
    command = f"pip install 'reclm-toolkit[{extra}]'" if extra else f"pip install {module}"
    return MissingExtra(f"{what} needs {module}; run: {command}", value=module, where=what, remedy=command)


@contextmanager
def needs_extra(what: str) -> Iterator[None]:
    """Turn a package that is missing inside the ``with`` block into a :class:`MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(error, what) from error
