"""What several tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where there is one: ``$RECLM_SHARED_DATA``, else ``../shared/data``."""
    folder = Path(os.environ.get("RECLM_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RECLM_SHARED_DATA to the folder that holds mind_release")
    return folder
