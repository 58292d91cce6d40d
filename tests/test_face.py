"""The names of ``import reclm``: lazy, complete in the stub, and nothing else under its roof."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import reclm

ROOT = Path(__file__).parents[1]


def test_the_stub_names_every_object_of_the_face_and_its_module() -> None:
    tree = ast.parse((ROOT / "reclm" / "__init__.pyi").read_text(encoding="utf-8"))
    stub = {
        alias.asname: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert stub == {name: (f"reclm.{module}", name) for name, module in reclm._FACE.items()}


@pytest.mark.parametrize("name", reclm.__all__)
def test_a_name_of_the_face_is_defined_where_the_table_says(name: str) -> None:
    assert getattr(reclm, name).__module__ == f"reclm.{reclm._FACE[name]}"
    assert name in dir(reclm)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        getattr(reclm, "load_datasets")  # noqa: B009


@pytest.mark.parametrize("name", ["tests", "tools", "docs", "examples", "reclm", "README"])
def test_what_else_lies_in_the_clone_is_not_importable(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"reclm.{name}")


def test_importing_reclm_is_light() -> None:
    code = "import sys; before = set(sys.modules); import reclm; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {name.partition(".")[0] for name in run.stdout.split()} - sys.stdlib_module_names == {"reclm"}
