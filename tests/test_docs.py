"""The documentation builds without a warning; its commands parse, and its Python blocks run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
import typer.main
from nbclient import NotebookClient
from torch import nn
from typer.testing import CliRunner

import reclm
from reclm import plugins
from reclm.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [*sorted((ROOT / "docs/tutorials").glob("*.md")), *sorted((ROOT / "docs/how-to").glob("*.md"))]
"""Pages whose blocks are run; those that a comment excludes are not."""
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
        command = command.commands[words.pop(0)]  # pyright: ignore[reportAttributeAccessIssue]
    return command, words


def parse(line: str) -> None:
    """Parse a command with the real command line; nothing is run."""
    command, words = resolve(line)
    if hasattr(command, "commands") and not words:
        return
    context = command.make_context("reclm", list(words))
    if context.args:  # the options of a reader, written as flags
        reader = plugins.get("dataset", context.params["reader"])
        for flag in context.args[::2]:
            assert flag.removeprefix("--").replace("-", "_") in reader.Config.model_fields, flag


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


def test_reference_has_every_name_of_the_face() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    assert {f"reclm.{name}" for name in reclm.__all__} - set(re.findall(r":: ([\w.]+)", page)) == set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tutorial of one's own data has made its tables and the data set ``shop``."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RECLM_HOME", raising=False)
        page = (ROOT / "docs/tutorials/your-data.md").read_text(encoding="utf-8")
        run_text(page[: page.index("## Profiles")], slow=True)
    return folder


def run_text(text: str, slow: bool, **names: Any) -> None:
    """Run the Python and shell blocks of a page in order; those of a language model only where ``slow``."""
    names = {"__name__": "__main__", **names}
    for found in FENCE.finditer(text):
        language, code, note = found["language"], found["code"], found["note"] or ""
        if note.startswith("not run:") or (note == "slow" and not slow):
            continue
        if note.startswith("file: "):
            Path(note.removeprefix("file: ")).write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, f"block after {text[: found.start()].splitlines()[-1:]}", "exec"), names)
        elif language == "sh":
            for line in commands(code):
                result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
                assert result.exit_code == 0, f"{line}\n{result.output}"


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """Run a page in ``folder``."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RECLM_HOME", raising=False)
    recipes = "\n## Add a "  # tests/test_contributing.py runs them
    run_text(page.read_text(encoding="utf-8").partition(recipes)[0], slow)


@pytest.mark.real_model
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_page_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, folder, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize(
    "page", [page for page in RUN if any(block.note == "slow" for block in blocks(page))], ids=name_of
)
def test_page_runs_with_a_language_model(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, folder, monkeypatch, slow=True)


@pytest.mark.slow
@pytest.mark.real_model
def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    model = nn.ModuleDict({"user_embedding": nn.Embedding(943, 8), "item_embedding": nn.Embedding(1682, 8)})
    run_text(text[: text.index("## In a shell")], slow=True, my_model=model)


@pytest.mark.real_model
def test_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples/notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if "ipywidgets" in str(output)]


def test_build(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
