"""What is shipped: the wheel, the entry points, the pins, and a command line that starts quickly."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution, packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.main import get_command

import reclm
from reclm.cli import app
from reclm.errors import EXTRAS

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TREE = ("reclm", "backbones", "profilers", "benchmarks")
PROJECT = PYPROJECT["project"]
OPTIONAL = PROJECT["optional-dependencies"]
INSTALLED = distribution(PROJECT["name"])
POINTS = [point for point in INSTALLED.entry_points if point.group.startswith("reclm.")]


def test_what_is_installed_is_what_the_project_declares() -> None:
    declared = {(group, name) for group, points in PROJECT["entry-points"].items() for name in points}
    assert {(point.group, point.name) for point in POINTS} == declared
    assert INSTALLED.version == reclm.__version__


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.group}:{point.name}")
def test_every_plugin_loads(point: Any) -> None:
    assert point.load().__name__ == point.attr


@pytest.fixture(scope="session")
def wheel(built_wheel: Path) -> set[str]:
    """The files of the wheel."""
    with zipfile.ZipFile(built_wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_module_under_one_name(wheel: set[str]) -> None:
    core = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reclm").rglob("*.py")}
    plugins = {
        f"reclm/{path.relative_to(ROOT).as_posix()}"
        for folder in TREE[1:]
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name in wheel if name.endswith(".py")} == core | plugins


def test_the_wheel_holds_the_files_that_are_not_python(wheel: set[str]) -> None:
    def files(folder: str, *patterns: str) -> set[str]:
        paths = (path for pattern in patterns for path in (ROOT / folder).rglob(pattern))
        return {f"reclm/{path.relative_to(ROOT).as_posix()}" for path in paths}

    typed = {"reclm/py.typed", "reclm/__init__.pyi"}
    needed = files("benchmarks/suites", "*.yaml") | files("benchmarks/report", "*.j2", "*.css")
    presets = files("profilers", "*.yaml")
    assert {name for name in wheel if not name.endswith(".py")} == typed | needed | presets


def requirements(texts: Iterable[str]) -> Iterator[Requirement]:
    """Requirements on other distributions, with those of the extras that they name."""
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            yield from requirements(chain.from_iterable(OPTIONAL[extra] for extra in requirement.extras))
        else:
            yield requirement


def test_every_dependency_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = {
        canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)
    }
    needed = chain(PYPROJECT["build-system"]["requires"], PROJECT["dependencies"], *OPTIONAL.values())
    for requirement in requirements(needed):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, reclm and the standard library left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names - sys.stdlib_module_names - {"reclm"}


OWNERS = packages_distributions()


def distributions(module: str) -> set[str]:
    """Names of the installed distributions that a module belongs to."""
    return set(map(canonicalize_name, OWNERS.get(module, [])))


def test_every_import_is_declared() -> None:
    extras = [texts for name, texts in OPTIONAL.items() if name not in {"docs", "test"}]
    declared = {canonicalize_name(one.name) for one in requirements(chain(PROJECT["dependencies"], *extras))}
    modules = set().union(*(imported(path) for folder in TREE for path in (ROOT / folder).rglob("*.py")))
    assert [name for name in modules if declared.isdisjoint(distributions(name))] == []


def test_every_import_that_is_not_of_the_core_is_mapped_to_its_extra() -> None:
    core = {canonicalize_name(one.name) for one in requirements(PROJECT["dependencies"])}
    modules = set().union(*(imported(path) for folder in TREE for path in (ROOT / folder).rglob("*.py")))
    optional = {name for name in modules if core.isdisjoint(distributions(name))}
    mapped = {module: extra for extra, names in EXTRAS.items() for module in names}
    assert optional <= mapped.keys()
    for module in optional:
        owners = {canonicalize_name(one.name) for one in requirements(OPTIONAL[mapped[module]])}
        assert distributions(module) & owners, module


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, as its words."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("words", list(commands(get_command(app))), ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom reclm.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code, done.code\n"
        "print(*{'torch', 'numpy', 'pyarrow', 'transformers', 'pandas'} & sys.modules.keys(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *words, "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage:" in run.stdout
    assert run.stderr.strip() == ""
