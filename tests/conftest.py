"""What several tests share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from fake_server import FakeServer, fake_server

from reclm import folders


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where there is one: ``$RECLM_SHARED_DATA``, else ``../shared/data``."""
    folder = Path(os.environ.get("RECLM_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RECLM_SHARED_DATA to the folder that holds mind_release")
    return folder


@pytest.fixture(scope="session")
def built_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree."""
    copy, root = tmp_path_factory.mktemp("built"), Path(__file__).parents[1]
    for name in ("reclm", "backbones", "profilers", "benchmarks"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(copy / "dist"), str(copy)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


def _default_workspace() -> Iterator[None]:
    chosen = folders._CURRENT.set(None)
    yield
    folders._CURRENT.reset(chosen)


# Every module and every test begins with the default workspace, whatever ran before it chose.
default_workspace_of_module = pytest.fixture(autouse=True, scope="module")(_default_workspace)
default_workspace = pytest.fixture(autouse=True)(_default_workspace)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """An OpenAI-compatible server in this process; the user's own address and key are out of the way."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with fake_server() as fake:
        yield fake
