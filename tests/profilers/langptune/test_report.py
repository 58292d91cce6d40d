"""What a tuning came to, on paper."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_langptune  # pyright: ignore[reportMissingImports]

from reclm.profilers.langptune.pipeline import LangPTunePipeline
from reclm.profilers.langptune.profiler import LangPTuneProfiler

EVIL = "<b>jazz</b> | [x](http://x.y) ```"


@pytest.fixture
def tuning(place, tuned, tmp_path) -> LangPTunePipeline:
    """Finished; every title is markup now."""
    out = Path(shutil.copytree(tuned, tmp_path / "out"))
    view = replace(
        place.view, item_text=pa.table({"title": [f"{EVIL} {at}" for at in range(tiny_langptune.ITEMS)]})
    )
    profiler = LangPTuneProfiler(
        tiny_langptune.config(), model=place.model, folder=out, encoder=place.encoder
    )
    return profiler.tuning(view)


def test_results(tuning):
    out = tuning.folder
    printed = tuning.results()
    assert printed[-1] == f"report: {out / 'report.md'}"
    report = (out / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# LangPTune on tastes\n")
    for words in (
        "over 12 test sessions; 24 items are ranked",
        "| LangPTune |",
        "![",
        "### u",
    ):
        assert words in report
    # in the fence as it is, else literal
    assert "\n````\n- (b)jazz(b) | [x](http://x.y) ``` " in report
    assert "Next: (b)jazz(b) \\| \\[x\\](http\\://x.y) \\`\\`\\` " in report
    assert (out / "curves.png").stat().st_size > 10_000
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith("| ")]
    values = {row[0].removeprefix("| "): row[1:] for row in rows if "±" in row[-1]}
    assert list(values) == ["Random", "MostPopular", "history, untrained", "LangPTune"]
    assert all(0 <= float(value.split()[0]) <= 1 for row in values.values() for value in row)
    assert any(remark.startswith("profiles: words ") for remark in printed[1:-1])


def test_profiles_are_written_once_and_some_users_can_be_measured(tuning, monkeypatch):
    tuning.config = tuning.config.model_copy(update={"measured": 4})
    tuning.results()
    wanted: list[str] = []
    write = LangPTuneProfiler.write

    def writing(self, subjects):
        subjects = list(subjects)
        wanted.extend(subject.id for subject in subjects)
        return write(self, subjects)

    monkeypatch.setattr(LangPTuneProfiler, "write", writing)
    tuning.config = tuning.config.model_copy(update={"measured": 6})
    tuning.results()
    assert len(wanted) == 2
    assert "over 6 test sessions" in (tuning.folder / "report.md").read_text(encoding="utf-8")


def test_without_test_sessions_there_is_nothing_to_measure(place, tmp_path):
    sessions = {**tiny_langptune.settings()["sessions"], "test": 0.0}
    config = tiny_langptune.config(variant="zero", source="history", sessions=sessions)
    profiler = LangPTuneProfiler(config, model=place.model, folder=tmp_path, encoder=place.encoder)
    tuning = profiler.tuning(place.view)
    tuning.run()
    assert tuning.results()
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "over 0 test sessions" in report
    assert "| EMB-0 | – |" in report
    assert np.array_equal(tuning.sessions.rows("test"), [])
