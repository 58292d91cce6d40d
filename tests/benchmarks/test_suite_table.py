"""The table of a record: ours above what was published, within 80 columns, on the terminal and as Markdown."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from reclm.benchmarks import picture
from reclm.benchmarks.picture import draw
from reclm.benchmarks.remarks import remarks
from reclm.benchmarks.results import Failure, ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.session_suite import load_session_suite
from reclm.benchmarks.suite import load_suite, suite_names
from reclm.benchmarks.suite_table import markdown, tables
from reclm.errors import ReclmError

OF_BACKBONES = [name for name in suite_names() if not load_session_suite(name)]


def made_up(name: str, seeds: int, value: float) -> Result:
    """A suite of the toolkit with the published number times ``value`` (and .0001 more each seed), or .01."""
    suite = load_suite(name)
    protocols = [ProtocolInfo(name=one, users=1234, candidates=5678) for one in ("full-shot", "zero-shot")]
    lines = [
        ResultRow(name=row.name, published=row.published, note=row.note, absent=row.absent)
        for row in suite.rows
    ]
    cells = {}
    for line in lines:
        for seed in range(seeds):
            for one in protocols:
                published = line.published.get(one.name, {})
                means = {
                    metric: published.get(metric, 0.01) * value + 0.0001 * seed for metric in suite.metrics
                }
                cells[line.name, seed, one.name] = TrialResult(
                    np.empty(0), np.empty(0), {}, means, best_epoch=123
                )
    about = RunInfo(
        title=suite.title,
        dataset=suite.dataset,
        fingerprint="f00d",
        selected_on="validation",
        seeds=seeds,
        metrics=suite.metrics,
        protocols=tuple(protocols),
        rows=tuple(lines),
    )
    return Result(about, cells)


def printed(record: Result, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for grid in tables(record):
        console.print(grid)
    return console.export_text()


@pytest.mark.parametrize("name", OF_BACKBONES)
def test_the_table_of_a_suite_fits_80_columns(name: str) -> None:
    record = made_up(name, seeds=3, value=1.1)
    text = printed(record)
    assert max(map(len, text.splitlines())) <= 80
    for line in record.about.rows:
        assert text.count(f"{line.name} ") >= 2  # not wrapped: once a protocol


def test_ours_stands_above_the_published_number_with_the_difference() -> None:
    # LightGCN on LastFM: .1741 published; ours .17410, .17420, .17430: mean .1742, sd .0001, +.06 %
    lines = [line.split() for line in printed(made_up("lastfm", seeds=3, value=1.0)).splitlines()]
    at = next(place for place, line in enumerate(lines) if line[:1] == ["LightGCN"])
    assert lines[at][1:3] == [".1742", "±.0001"]
    assert lines[at][-1] == "123"
    assert lines[at + 1] == ["published", ".1741", "+0.1%", ".1996", "+0.1%"]
    # one seed: no spread
    record = made_up("lastfm", seeds=1, value=1.02)
    assert ["published", ".1741", "+2.0%", ".1996", "+2.0%"] in [
        line.split() for line in printed(record).splitlines()
    ]
    assert "| LightGCN | .1776 | .1741 | +2.0% | .0102 | .2036 | .1996 | +2.0% | .0102 |" in markdown(record)
    assert "| SGL | .0102 |  |  | .0102 | .0102 |  |  | .0102 |" in markdown(record)


def test_what_failed_did_not_run_or_differs_is_said() -> None:
    record = made_up("lastfm", 1, 1.0)
    first, second, *rest = record.about.rows
    about = record.about.model_copy(
        update={
            "rows": (
                first.model_copy(update={"note": "twice as wide"}),
                second.model_copy(update={"absent": "no GPU"}),
                *rest,
            ),
            "failures": (Failure(row=first.name, seed=1, reason="no luck"),),
        }
    )
    said = remarks(Result(about, record.cells))
    for words in (
        f"{first.name}: twice as wide",
        f"{second.name}: not run here, no GPU",
        f"FAILED: {first.name}, seed 1: no luck",
    ):
        assert words in said


def test_names_cannot_style_the_table(tmp_path: Path) -> None:
    line = ResultRow(name="[red]a|b$x[/]")
    record = made_up("lastfm", 1, 1.0)
    record = Result(
        record.about.model_copy(update={"rows": (line,), "title": "[bold]x"}),
        {(line.name, seed, protocol): one for (_, seed, protocol), one in record.cells.items()},
    )
    assert "[red]a|b$x[/]" in printed(record)
    assert r"\[red\]a\|b\$x\[/\]" in markdown(record)
    draw(record, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_that_came_to_nothing_adds_no_percentage(tmp_path: Path) -> None:
    record = made_up("reclm-table3", 1, 1.0)
    lines = tuple(one.model_copy(update={"published_seconds": 1.0}) for one in record.about.rows[:2])
    lines = (lines[0], lines[1].model_copy(update={"against": lines[0].name}))
    timed = TrialResult(np.empty(0), np.empty(0), {}, {"recall@20": 0.5}, epoch_seconds=2.0)
    record = Result(record.about.model_copy(update={"rows": lines}), {(lines[0].name, 0, "full-shot"): timed})
    assert "nan" not in printed(record)
    draw(record, tmp_path / "picture.png")
    page = markdown(record)
    assert "nan" not in page
    assert f"| {lines[0].name} | 2.000 |  | 1.000 |  |" in page


def test_protocols_without_users_come_back_as_they_were_written(tmp_path: Path) -> None:
    record = made_up("lastfm", 1, 1.0)
    nothing = TrialResult(
        np.empty(0, object), np.empty(0, np.int64), {"recall@20": np.empty(0)}, {"coverage@20": np.nan}
    )
    record = Result(record.about, {("LightGCN", 0, "zero-shot"): nothing})
    record.save(tmp_path)
    means = Result.read(tmp_path).cells["LightGCN", 0, "zero-shot"].means()
    assert means.keys() == {"recall@20", "coverage@20"}
    assert all(np.isnan(one) for one in means.values())
    Result(record.about, {}).save(tmp_path)
    assert not (tmp_path / "users.parquet").exists()


def test_a_run_that_lacks_a_column_is_damaged(tmp_path: Path) -> None:
    record = made_up("lastfm", 1, 1.0)
    record.save(tmp_path)
    pq.write_table(pa.table({"row": ["a"]}), tmp_path / "results.parquet")
    with pytest.raises(ReclmError, match="is damaged"):
        Result.read(tmp_path)


def test_curves_are_drawn_where_not_every_epoch_was_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = made_up("lastfm", 1, 1.0)
    first = record.about.rows[0].name
    epochs = [{"epoch": 1.0, "loss": 0.7}, {"epoch": 2.0, "loss": 0.6, "ndcg@20": 0.1}]
    record.history[first, 0] = epochs
    drawn = []
    monkeypatch.setattr(picture, "save", lambda figure, path: drawn.append(figure))
    draw(record, tmp_path / "picture.png")
    (line,) = drawn[0].axes[-1].lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([2.0], [0.1])
