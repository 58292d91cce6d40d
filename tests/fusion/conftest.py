"""The examples, as modules, and profiles for the models that are made here."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from made import ITEMS, TEXT, USERS

from reclm.data.dataset import Dataset
from reclm.profiles.matrix import ProfileMatrix
from reclm.testing import checkerboard, profiles

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    """An example, by its file's name."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tensors this small are done before a second thread wakes; on a busy machine all wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plain_mf() -> ModuleType:
    return load("plain_mf")


@pytest.fixture(scope="session")
def pyg_lightgcn() -> ModuleType:
    return load("pyg_lightgcn")


@pytest.fixture(scope="module")
def small() -> Dataset:
    return checkerboard(USERS, ITEMS)


@pytest.fixture
def matrices(small: Dataset) -> dict[Any, ProfileMatrix]:
    return profiles(small, TEXT)
