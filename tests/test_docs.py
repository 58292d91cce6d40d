"""The documentation builds without a warning; its commands parse, and its Python blocks run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from reclm import plugins
from reclm.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OLD = {"upgrading.md"}
"""Pages that also show commands of earlier versions."""
MOST_WORDS = 900
"""Of the README."""
FENCE = re.compile(
    r"^(?:<!-- (?P<note>.*?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
INLINE = re.compile(r"`(reclm [a-z][^`]*)`")
PLACEHOLDERS = ("…", "COMMAND", "OPTION")


WAITS = pytest.mark.skip(reason="the face is not whole yet")


class Block(NamedTuple):
    """A fenced block of a page and the comment before it, which says how it is run."""

    language: str
    code: str
    note: str


def name_of(page: Path) -> str:
    """Return the page's path inside the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [Block(found["language"], found["code"], found["note"] or "") for found in FENCE.finditer(text)]


def commands(text: str) -> Iterator[str]:
    """Yield the ``reclm`` commands of a shell script, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "reclm":
            yield line.strip()


def all_commands(page: Path) -> set[str]:
    """Return the commands in a page's blocks and in its running text."""
    text = page.read_text(encoding="utf-8")
    found = {line for block in blocks(page) if block.language == "sh" for line in commands(block.code)}
    text = FENCE.sub("", text)
    for indented in INDENTED.findall(text):
        if re.match(r" {4}reclm ", indented):
            found |= set(commands(re.sub(r"^ {4}", "", indented, flags=re.MULTILINE)))
    return {line for line in found if not any(word in line for word in PLACEHOLDERS)}


def mentions(page: Path) -> list[str]:
    """Return the commands that a page's running text mentions, perhaps without their arguments."""
    text = INDENTED.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [line for line in INLINE.findall(text) if not any(word in line for word in PLACEHOLDERS)]


def resolve(line: str) -> tuple[Any, list[str]]:
    """Return the command that a line calls and the words that follow its name."""
    command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return command, words


def parse(line: str) -> None:
    """Parse a command with the real command line; nothing is run."""
    command, words = resolve(line)
    if hasattr(command, "commands") and not words:
        return
    context = command.make_context("reclm", list(words))
    if context.args:  # the options of a reader, written as flags
        reader = plugins.get("dataset", context.params["name"])
        for flag in context.args[::2]:
            assert flag.removeprefix("--").replace("-", "_") in reader.Config.model_fields, flag


@WAITS
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page: Path) -> None:
    if page.name in OLD:
        pytest.skip("shows commands of earlier versions, too")
    failures = {}
    for line in sorted(all_commands(page)):
        try:
            parse(line)
        except Exception as error:
            failures[line] = f"{type(error).__name__}: {error}"
    assert not failures


@WAITS
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_mentioned_commands_and_options_exist(page: Path) -> None:
    unknown = []
    for line in mentions(page):
        command, words = resolve(line)
        options = {name for parameter in command.params for name in parameter.opts}
        unknown += [(line, word) for word in words if word.startswith("--") and word not in options]
        unknown += [(line, words[0])] if hasattr(command, "commands") and words and words[0][0] != "-" else []
    assert not unknown


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_links_of_readme_and_rooms_resolve() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks/README.md",
        *ROOT.glob("profilers/*/README.md"),
    ]
    targets = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    ]
    assert targets
    assert [
        f"{name_of(page)}: {target}" for page, target in targets if not (page.parent / target).exists()
    ] == []


@WAITS
def test_build(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
