"""A workspace of its own for each test of data sets."""

from contextvars import ContextVar

import pytest

from reclm import folders


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch) -> folders.Workspace:
    home = folders.Workspace(tmp_path / "home")
    monkeypatch.setattr(folders, "_CURRENT", ContextVar("workspace", default=home))
    return home
