"""A made-up run as a report, and a browser to look at it."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))

from made_runs import SCRIPT, made_check, made_examples, made_quality, made_result

from reclm.benchmarks.report import write_report
from reclm.benchmarks.results import Result

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def result() -> Result:
    """A made-up run."""
    return made_result()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a made-up run and its report; each text that data bring in holds a script."""
    folder = tmp_path_factory.mktemp("run")
    run = made_result(name=f" {SCRIPT}", backbones=("LightGCN",))
    extras = {"examples": tuple(made_examples()), "quality": tuple(made_quality()), "data": made_check()}
    replace(run, **extras).save(folder)
    write_report(folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium without a window."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser; install one of {', '.join(BROWSERS)}")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield started
        started.close()
