"""What several tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from fake_server import FakeServer, fake_server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where there is one: ``$RECLM_SHARED_DATA``, else ``../shared/data``."""
    folder = Path(os.environ.get("RECLM_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RECLM_SHARED_DATA to the folder that holds mind_release")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """An OpenAI-compatible server in this process; the user's own address and key are out of the way."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with fake_server() as fake:
        yield fake
