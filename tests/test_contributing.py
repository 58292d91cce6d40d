"""The recipes of docs/how-to/plug-ins.md, run as they stand there."""

import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = re.compile(r"## Add a (.+?) in three files\n(.*?)(?=\n## |\Z)", re.DOTALL)
FILE = re.compile(r"^`([\w/.]+)`, .*?```\w+\n(.*?)```", re.DOTALL | re.MULTILINE)
RECIPES = dict(RECIPE.findall((ROOT / "docs" / "how-to" / "plug-ins.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("what", ["backbone", "profiler", "data set"])
def test_recipe(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (module, code), (test, test_code), (pyproject, point) = FILE.findall(RECIPES[what])
    for path, text in ((module, code), (test, test_code)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    for package, folder in (
        (import_module("reclm.backbones"), "backbones"),
        (import_module("reclm.profilers"), "profilers"),
        (import_module("reclm.data"), "reclm/data"),
    ):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])

    assert pyproject == "pyproject.toml"
    target = re.findall(r'"([\w.]+:\w+)"$', point, re.MULTILINE)
    name, attribute = target[0].split(":")
    assert getattr(import_module(name), attribute).__name__ == attribute

    tests = [one for key, one in runpy.run_path(str(tmp_path / test)).items() if key.startswith("test_")]
    assert tests
    for one in tests:
        one(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(one).parameters else {}))
