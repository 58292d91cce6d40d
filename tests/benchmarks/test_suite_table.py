"""The table of a suite: ours above the published numbers, within 80 columns, on the terminal and as Markdown."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table

from reclm.benchmarks.report.page import provenance, terminal
from reclm.benchmarks.results import Failure, ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.suite import load_suite, suite_names
from reclm.charts import save
from reclm.errors import Damaged

OF_BACKBONES = [name for name in suite_names() if load_suite(name).sessions is None]


def made_up(name: str, seeds: int, value: float) -> Result:
    """A suite of the toolkit with the published number times ``value`` (and .0001 more each seed), or .01."""
    suite = load_suite(name)
    protocols = [ProtocolInfo(name=one, users=1234, candidates=5678) for one in ("full-shot", "zero-shot")]
    rows = [
        ResultRow(name=row.name, published=row.published, note=row.note, absent=row.absent)
        for row in suite.rows
    ]
    trials = {}
    for row in rows:
        for seed in range(seeds):
            for one in protocols:
                published = row.published.get(one.name, {})
                means = {
                    metric: published.get(metric, 0.01) * value + 0.0001 * seed for metric in suite.metrics
                }
                trials[row.name, seed, one.name] = TrialResult(
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
        rows=tuple(rows),
    )
    return Result(about, trials)


def printed(result: Result, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for one in terminal(result):
        if isinstance(one, Table):
            console.print(one)
    return console.export_text()


@pytest.mark.parametrize("name", OF_BACKBONES)
def test_the_table_of_a_suite_fits_80_columns(name: str) -> None:
    result = made_up(name, seeds=3, value=1.1)
    text = printed(result)
    assert max(map(len, text.splitlines())) <= 80
    for line in result.about.rows:
        assert text.count(f"{line.name} ") >= 2  # not wrapped: once a protocol


def test_ours_stands_above_the_published_number_with_the_difference() -> None:
    # LightGCN on LastFM: .1741 published; ours .17410, .17420, .17430: mean .1742, sd .0001, +.06 %
    lines = [line.split() for line in printed(made_up("lastfm", seeds=3, value=1.0)).splitlines()]
    at = next(place for place, line in enumerate(lines) if line[:1] == ["LightGCN"])
    assert lines[at][1:3] == [".1742", "±.0001"]
    assert lines[at][-1] == "123"
    assert " ".join(lines[at + 1]) == "published .1741 +0.1% .1996 +0.1%"
    # one seed: no spread
    result = made_up("lastfm", seeds=1, value=1.02)
    lines = [" ".join(line.split()) for line in printed(result).splitlines()]
    assert "published .1741 +2.0% .1996 +2.0%" in lines
    page = result.to_markdown()
    assert "| LightGCN | .1776 | **.0102** | .2036 | **.0102** |" in page
    assert "| *published* | .1741 (+2.0 %) |  | .1996 (+2.0 %) |  |" in page
    assert "| SGL | .0102 | **.0102** | .0102 | **.0102** |" in page


def test_what_failed_did_not_run_or_differs_is_said() -> None:
    result = made_up("lastfm", 1, 1.0)
    first, second, *rest = result.about.rows
    about = result.about.model_copy(
        update={
            "rows": (
                first.model_copy(update={"note": "twice as wide"}),
                second.model_copy(update={"absent": "no GPU"}),
                *rest,
            ),
            "failures": (Failure(row=first.name, seed=1, reason="no luck"),),
        }
    )
    result = Result(about, result.trials)
    assert ("failed", f"{first.name}, seed 1: no luck") in provenance(result)
    shown = [str(one) for one in terminal(result)]
    assert f"{first.name}: twice as wide" in shown
    assert f"{second.name}: no GPU" in shown


def test_names_cannot_style_the_table(tmp_path: Path) -> None:
    row = ResultRow(name="[red]a|b$x[/]")
    result = made_up("lastfm", 1, 1.0)
    result = Result(
        result.about.model_copy(update={"rows": (row,), "title": "[bold]x"}),
        {(row.name, seed, protocol): one for (_, seed, protocol), one in result.trials.items()},
    )
    assert "[red]a|b$x[/]" in printed(result)
    assert r"\[red\]a\|b\$x\[/\]" in result.to_markdown()
    save(result.plot(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_that_came_to_nothing_adds_no_percentage(tmp_path: Path) -> None:
    result = made_up("reclm-table3", 1, 1.0)
    lines = tuple(one.model_copy(update={"published_seconds": 1.0}) for one in result.about.rows[:2])
    lines = (lines[0], lines[1].model_copy(update={"against": (lines[0].name,)}))
    timed = TrialResult(np.empty(0), np.empty(0), {}, {"recall@20": 0.5}, epoch_seconds=2.0)
    result = Result(result.about.model_copy(update={"rows": lines}), {(lines[0].name, 0, "full-shot"): timed})
    assert "nan" not in printed(result)
    save(result.plot(), tmp_path / "picture.png")
    page = result.to_markdown()
    assert "nan" not in page
    assert f"| {lines[0].name} | 2.0 s |  | 1.0 s |" in page


def test_protocols_without_users_come_back_as_they_were_written(tmp_path: Path) -> None:
    result = made_up("lastfm", 1, 1.0)
    nothing = TrialResult(
        np.empty(0, object), np.empty(0, np.int64), {"recall@20": np.empty(0)}, {"coverage@20": np.nan}
    )
    result = Result(result.about, {("LightGCN", 0, "zero-shot"): nothing})
    result.save(tmp_path)
    means = Result.load(tmp_path).trials["LightGCN", 0, "zero-shot"].means
    assert means.keys() == {"recall@20", "coverage@20"}
    assert all(np.isnan(one) for one in means.values())
    Result(result.about, {}).save(tmp_path)
    assert not (tmp_path / "users.parquet").exists()


def test_a_run_that_lacks_a_column_is_damaged(tmp_path: Path) -> None:
    result = made_up("lastfm", 1, 1.0)
    result.save(tmp_path)
    pq.write_table(pa.table({"row": ["a"]}), tmp_path / "results.parquet")
    with pytest.raises(Damaged) as error:
        Result.load(tmp_path)
    assert error.value.where == tmp_path / "results.parquet"
