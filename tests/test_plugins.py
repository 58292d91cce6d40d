"""Plug-ins by the name of their class."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from reclm import plugins
from reclm.errors import BadInput, MissingExtra, NotFound


def test_a_class_of_ones_own_is_named_by_module_and_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_backbone_7.py").write_text("class Mine:\n    Config = dict\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    assert plugins.get("backbone", "my_backbone_7:Mine").__name__ == "Mine"
    for name in ("my_backbone_7:Yours", "nowhere_7:Mine", ":", "my_backbone_7:", "os:path", "os:sep"):
        with pytest.raises(BadInput) as error:
            plugins.get("backbone", name)
        assert error.value.value == name
        assert "\n" not in str(error.value)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(NotFound) as error:
        plugins.get("backbone", "ligthgcn")
    assert (error.value.value, error.value.remedy) == ("ligthgcn", "lightgcn")


@pytest.mark.parametrize(
    ("module", "command"),
    [("transformers", "pip install 'reclm-toolkit[llm]'"), ("nowhere_7", "pip install nowhere_7")],
)
def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, module: str, command: str
) -> None:
    class Point:
        value = "theirs:Plugin"

        def load(self) -> None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")

    monkeypatch.setattr(plugins, "_points", lambda kind: {"mine": Point()})
    with pytest.raises(MissingExtra) as error:
        plugins.get("profiler", "mine")
    assert (error.value.value, error.value.where) == (module, "profiler 'mine'")
    assert error.value.remedy == command


def test_plugins_of_a_clone_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = plugins.names("backbone")

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(plugins, "distribution", missing)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    plugins._points.cache_clear()
    try:
        assert plugins.names("backbone") == installed
    finally:
        plugins._points.cache_clear()
