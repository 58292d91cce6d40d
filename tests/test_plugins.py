"""Plug-ins by the name of their class."""

import sys
from pathlib import Path

import pytest

from reclm import plugins
from reclm.errors import ReclmError


def test_a_class_of_ones_own_is_named_by_module_and_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_backbone_7.py").write_text("class Mine:\n    Config = dict\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    assert plugins.get("backbone", "my_backbone_7:Mine").__name__ == "Mine"
    for name in ("my_backbone_7:Yours", "nowhere_7:Mine", ":", "my_backbone_7:"):
        with pytest.raises(ReclmError, match="cannot be imported") as caught:
            plugins.get("backbone", name)
        assert "\n" not in str(caught.value)
    for name in ("os:path", "os:sep"):
        with pytest.raises(ReclmError, match=f"backbone '{name}' is a .* no backbone$"):
            plugins.get("backbone", name)
