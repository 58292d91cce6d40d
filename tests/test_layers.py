"""The layers of the product: a module imports its own layer's room and those below it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("reclm", "backbones", "profilers", "benchmarks")
FILES = sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))

CORE = (
    ("recommend", "fusion", "recbole", "testing"),
    ("profiles",),
    ("text",),
    ("llm",),
    ("data",),
    ("charts", "config", "console", "errors", "files", "folders", "intervals", "plugins"),
)
"""The rooms of the core, from the top; a room imports its own row and the rows below."""

TO_MEND: set[tuple[str, str]] = set()
"""Imports that break the rule until their rooms are rebuilt: it only shrinks, so take off what you mend."""


def imports(path: Path) -> Iterator[str]:
    """Modules of reclm that a file imports: inside functions and for type checkers as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "reclm")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "reclm":
                yield from (f"reclm.{alias.name}" for alias in node.names)
            elif str(node.module).startswith("reclm."):
                yield str(node.module)


def layer(room: str) -> int:
    """Number of a room's layer, from the top; the rooms of the core follow from 3 on."""
    if room == "benchmarks":
        return 1
    if room in {"profilers", "backbones"}:
        return 2
    return next((3 + depth for depth, rooms in enumerate(CORE) if room in rooms), 0)


def room_of(path: Path) -> str:
    """The room that a file lies in: ``data`` for ``reclm/data/dataset.py``."""
    first, second, *_ = path.relative_to(ROOT).with_suffix("").parts
    return second if first == "reclm" else first


def allowed(path: Path, module: str) -> bool:
    """Whether a file may import a module of reclm."""
    source, target = room_of(path), f"{module}.".split(".")[1]
    if source == target:
        return True
    if layer(target) == 2:
        return False  # plug-ins are found by name, as a third party's are; they do not know each other
    return layer(source) <= layer(target)


def broken(path: Path) -> set[tuple[str, str]]:
    """Imports of a file that break the rule."""
    name = path.relative_to(ROOT).as_posix()
    return {(name, module) for module in imports(path) if not allowed(path, module)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_lower_layers_only(path: Path) -> None:
    assert broken(path) - TO_MEND == set()


def test_the_list_of_exceptions_is_current() -> None:
    assert set().union(*map(broken, FILES)) >= TO_MEND


def test_the_rooms_of_the_profilers_do_not_import_each_other_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for path in (ROOT / "profilers").glob("*/*.py"):
        targets = {module.split(".")[2] for module in imports(path) if module.startswith("reclm.profilers.")}
        rooms.setdefault(path.parent.name, set()).update(targets - {path.parent.name})
    order = list(TopologicalSorter(rooms).static_order())
    assert order.index("tuning") < order.index("rl") < order.index("reclm")
