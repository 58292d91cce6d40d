"""What a tuning came to, on paper."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
        "| rlso | rollout |",
        "### u",
    ):
        assert words in report
    # in the fence as it is, else literal
    assert "\n````\n- (b)jazz(b) | [x](http://x.y) ``` " in report
    assert "Next: (b)jazz(b) \\| \\[x\\](http\\://x.y) \\`\\`\\` " in report
    assert (out / "curves.png").stat().st_size > 10_000

    found = json.loads((out / "measured" / "results.json").read_text(encoding="utf-8"))
    table = pq.read_table(out / "measured" / "sessions.parquet").to_pandas()
    assert (found["sessions"], found["candidates"], found["truncated"]) == (12, 24, 0)
    assert list(found["rankings"]) == ["Random", "MostPopular", "history, untrained", "LangPTune"]
    for name, metrics in found["rankings"].items():
        rows = table[table["method"] == name]
        test_users = tuning.sessions.users[tuning.sessions.rows("test")]
        assert rows["user_id"].tolist() == [f"u{user}" for user in test_users]
        for metric, one in metrics.items():
            assert one["mean"] == pytest.approx(rows[metric].mean())
            assert one["low"] <= one["mean"] <= one["high"]
    assert found["profiles"]["words"] >= 3


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
    found = json.loads((tuning.folder / "measured" / "results.json").read_text(encoding="utf-8"))
    assert found["sessions"] == 6


def test_without_test_sessions_there_is_nothing_to_measure(place, tmp_path):
    sessions = {**tiny_langptune.settings()["sessions"], "test": 0.0}
    config = tiny_langptune.config(variant="zero", source="history", sessions=sessions)
    profiler = LangPTuneProfiler(config, model=place.model, folder=tmp_path, encoder=place.encoder)
    tuning = profiler.tuning(place.view)
    tuning.run()
    assert tuning.results()
    found = json.loads((tmp_path / "measured" / "results.json").read_text(encoding="utf-8"))
    assert found["sessions"] == 0
    assert found["rankings"]["EMB-0"]["ndcg@20"] is None
    assert "| EMB-0 | – |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert np.array_equal(tuning.sessions.rows("test"), [])
