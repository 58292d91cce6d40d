import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from reclm.plugins import environment


def test_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reclm.plugins.PACKAGES", ("torch", "no-such-package-of-anybody"))
    found = environment()
    assert found["torch"] == version("torch")
    assert "no-such-package-of-anybody" not in found
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()


def test_it_does_not_say_whose_machine_it_is():
    text = json.dumps(environment())
    assert str(Path.cwd()) not in text
    assert str(Path.home()) not in text
    assert "/" not in text
    assert platform.node() not in text.split('"')
