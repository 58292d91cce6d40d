"""Suites of sessions: rows and floors, users over seeds, differences, failures, what is written."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import reclm.cli
from reclm.benchmarks.report.page import facts
from reclm.benchmarks.results import Result
from reclm.benchmarks.session_examples import draw, examples, qualities
from reclm.benchmarks.session_run import SessionRun, check, run_session_suite
from reclm.benchmarks.session_suite import SessionSuite, load_session_suite
from reclm.benchmarks.suite import suite_names
from reclm.benchmarks.verdict import against_controls, differences
from reclm.data.dataset import Dataset, Interactions
from reclm.data.storage import save as save_dataset
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.profilers.langptune.evaluation import ranked

sys.path.insert(0, str(Path(__file__).parents[1] / "profilers" / "langptune"))
sys.path.insert(0, str(Path(__file__).parents[1] / "profilers" / "reclm"))

import tiny_langptune  # pyright: ignore[reportMissingImports]
import tiny_tuning  # pyright: ignore[reportMissingImports]

ROWS: list[dict[str, Any]] = [
    {"name": "EMB-0", "settings": {"source": "history", "variant": "zero"}, "published": {"ndcg@20": 0.5}},
    {"name": "EMB-CL", "settings": {"source": "history", "variant": "cl"}, "line": "EMB", "at": 1},
    {"name": "none", "settings": {"variant": "zero"}, "line": "LLM", "at": 10},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workspace with the data set ``tastes``, a model and an encoder."""
    folder = tmp_path_factory.mktemp("home")
    tiny_tuning.model(folder / "model")
    tiny_langptune.encoder(folder / "encoder")
    view = tiny_langptune.view()
    empty = Interactions.empty()
    data = Dataset(
        "tastes",
        view.users,
        view.items,
        view.train,
        empty,
        empty,
        view.item_text,
        protocols=(),
        text_template=view.text_template,
    )
    save_dataset(data, Workspace(folder).dataset("tastes"))
    return folder


def suite(home: Path, **changes: Any) -> SessionSuite:
    settings = tiny_langptune.settings()
    return SessionSuite.build(
        {
            "kind": "sessions",
            "title": "tastes",
            "dataset": "tastes",
            "seeds": 2,
            "model": str(home / "model"),
            "encoder": str(home / "encoder"),
            "settings": settings,
            "rows": ROWS,
            "pairs": [["EMB-0", "EMB-CL"], ["Random", "none"]],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def run(home) -> SessionRun:
    return run_session_suite(suite(home), Workspace(home), progress=False)


WHERE = "next items"


def users(record: Result, name: str, seed: int) -> list[str]:
    return record.cells[name, seed, WHERE].user_ids.tolist()


def test_rows_and_floors_have_the_same_users(run):
    record = run.record()
    names = ["Random", "MostPopular", "EMB-0", "EMB-CL", "none"]
    assert [line.name for line in record.about.rows] == names
    assert not run.failures
    for seed in (0, 1):
        assert len({tuple(users(record, name, seed)) for name in names}) == 1
    # each seed draws its own held-out users
    assert users(record, "none", 0) != users(record, "none", 1)
    assert record.about.protocols[0].users == len({*users(record, "none", 0), *users(record, "none", 1)})
    assert record.about.protocols[0].candidates == len(run.tunings[0].sessions.items)


def test_a_user_is_compared_with_itself_seed_by_seed(run):
    record = run.record()
    before, after = record.paired("Random", "none", WHERE, "ndcg@20")
    known = sorted({*users(record, "none", 0), *users(record, "none", 1)})
    assert before.shape == after.shape == (2, len(known))
    for seed in (0, 1):
        cell = record.cells["none", seed, WHERE]
        of = dict(zip(cell.user_ids.tolist(), cell.values["ndcg@20"].tolist(), strict=True))
        np.testing.assert_allclose(after[seed], [of.get(user, np.nan) for user in known])
    (found,) = [one for one in differences(record) if (one.row, one.metric) == ("none", "ndcg@20")]
    means = [
        record.cells[name, seed, WHERE].means()["ndcg@20"] for name in ("Random", "none") for seed in (0, 1)
    ]
    assert found.test.difference == pytest.approx(np.mean(means[2:]) - np.mean(means[:2]), rel=1e-5)


def test_what_a_row_does_not_use_trains_it_no_other_way(run, home, monkeypatch):
    from reclm.profilers.langptune import pipeline as tuning

    def refused(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tuning.Alternation, "__init__", refused)
    settings = tiny_langptune.settings()
    settings["rlso"]["learning_rate"] = 0.5
    assert not run_session_suite(suite(home, settings=settings), Workspace(home), progress=False).failures
    settings["cl"]["learning_rate_alone"] = 0.5
    new = run_session_suite(suite(home, settings=settings), Workspace(home), progress=False)
    assert {row for row, _, why in new.failures if "trained again" in why} == {"EMB-CL"}


def test_what_was_trained_is_not_trained_again(run, home, monkeypatch):
    from reclm.profilers.langptune import pipeline as tuning

    def refused(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tuning.Alternation, "__init__", refused)
    again = run_session_suite(suite(home), Workspace(home), progress=False)
    assert not again.failures
    one, other = run.record(), again.record()
    for key, cell in one.cells.items():
        np.testing.assert_array_equal(cell.values["mrr@20"], other.cells[key].values["mrr@20"])
    kept = home / "cells" / "sessions" / "profiles"
    before = {path.name: path.stat().st_ino for path in kept.iterdir()}
    (home / "held").mkdir()
    for path in kept.iterdir():  # so that no number is given again
        (home / "held" / path.name).hardlink_to(path)
    fresh = run_session_suite(suite(home, seeds=1), Workspace(home), fresh=True, progress=False)
    assert {row for row, _, why in fresh.failures if "trained again" in why} == {"EMB-CL"}
    after = {path.name: path.stat().st_ino for path in kept.iterdir()}
    assert set(after) < set(before)
    assert all(before[name] != one for name, one in after.items())


def test_controls_stand_in_the_place_of_what_was_written(run, home):
    told = run_session_suite(suite(home), Workspace(home), controls=True, progress=False).record()
    lines = {line.name: line for line in told.about.lines if line.control}
    assert list(lines) == ["none, shuffled", "none, random", "none, text"]
    assert {line.stands_for for line in lines.values()} == {"none"}
    (found,) = against_controls(told)
    best = max(lines, key=lambda name: told.values(name, WHERE, "ndcg@20").mean())
    assert (found.line, found.against) == ("none", best)
    # the mean of the history's items, by hand
    tuning, ran = run.tunings[0], run.ran["none", 0]
    sessions, rows = tuning.sessions, ran.measured.rows
    vectors = tuning.first_encoder.encode([tuning.histories.lines[item] for item in sessions.items])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place = {item: at for at, item in enumerate(sessions.items.tolist())}
    scores = []
    for row in rows.tolist():
        own = [place[item] for item in sessions.history[row].tolist() if item >= 0]
        one = vectors @ vectors[own].mean(0)
        one[own] = -np.inf
        scores.append(one)
    wanted = ranked(torch.from_numpy(np.stack(scores)), sessions, rows, len(run.view.items))
    np.testing.assert_allclose(
        told.cells["none, text", 0, WHERE].values["ndcg@20"], wanted.values["ndcg@20"], atol=1e-6
    )


def test_a_row_that_fails_is_told_and_costs_the_others_nothing(home, monkeypatch):
    from reclm.profilers.langptune.measure import Measurement

    whole = Measurement.run

    def fails(self: Measurement, controls: bool = False) -> Any:
        if self.tuning.config.source == "profile":
            raise ReclmError("out of luck")
        return whole(self, controls)

    monkeypatch.setattr(Measurement, "run", fails)
    run = run_session_suite(suite(home, seeds=1), Workspace(home), progress=False)
    assert run.failures == [("none", 0, "out of luck")]
    record = run.record()
    assert record.seeds("EMB-0", WHERE) == [0]
    assert ("failed", "none, seed 0: out of luck") in facts(record)


def test_a_row_that_cannot_run_here_shows_its_published_numbers(home):
    rows = [
        {"name": "BERT4Rec", "published": {"ndcg@20": 0.0384}, "absent": "no sequence backbone yet"},
        ROWS[0],
    ]
    ran = run_session_suite(suite(home, rows=rows, pairs=[], seeds=1), Workspace(home), progress=False)
    page = ran.record().to_markdown()
    assert "no sequence backbone yet" in page
    assert ".0384" in page


def test_another_data_set_is_named(home):
    there = suite(home).changed(dataset="shop", seeds=1)
    assert (there.dataset, there.seeds, there.title) == ("shop", 1, "tastes; here: shop")
    assert suite(home).changed(dataset="tastes") == suite(home)
    elsewhere = suite(home).changed(dataset="/elsewhere/tastes")
    assert (elsewhere.dataset, elsewhere.title) == ("/elsewhere/tastes", suite(home).title)


def test_some_rows_alone(home):
    whole = load_session_suite("langptune-table1")
    some = whole.changed(rows=["EMB-CL", "*-0"])
    assert [row.name for row in some.rows] == ["EMB-0", "EMB-CL", "LangPTune-0"]
    assert some.pairs == (("EMB-0", "EMB-CL"),)
    assert some.note == f"{whole.note} 3 of its {len(whole.rows)} rows were asked for"
    assert [row.name for row in whole.changed(rows=["EMB-CL"]).rows] == ["EMB-0", "EMB-CL"], "to compare with"
    with pytest.raises(ReclmError, match="did you mean 'EMB-CL'"):
        whole.changed(rows=["EMB-CLL"])


def test_a_leak_ends_a_row(home):
    sessions = run_session_suite(suite(home, seeds=1), Workspace(home), progress=False).tunings[0].sessions
    check(sessions)
    with pytest.raises(ReclmError, match="leak: the history of session 0 holds an item that is to be found"):
        check(replace(sessions, future=sessions.history[:, :1]))
    twice = sessions.users.copy()
    twice[1] = twice[0]
    with pytest.raises(ReclmError, match="leak: a user has two sessions"):
        check(replace(sessions, users=twice))


def test_what_is_drawn_and_shown(run, tmp_path):
    record = run.record()
    draw(run, record, tmp_path / "lines.png")
    assert (tmp_path / "lines.png").stat().st_size > 10_000
    (told,) = qualities(run)
    assert (told.writer, told.kind, told.profiles) == ("none", "user", 2 * len(users(record, "none", 0)))
    first, *others = examples(run)
    assert len(others) == 9
    assert list(first.top) == ["EMB-0", "EMB-CL", "none"]
    assert len(first.top["none"]) == 10
    # what was found among ten is what recall says
    found = [sum(one.hits["none"]) for one in (first, *others)]
    recall = record.cells["none", 0, WHERE].values["recall@20"][:10] * run.tunings[0].sessions.future.shape[1]
    assert (np.array(found) <= recall + 1e-6).all()


def test_bad_suites_are_refused_in_one_line(home, tmp_path):
    with pytest.raises(ReclmError, match="two rows have the same name"):
        suite(home, rows=[ROWS[0], ROWS[0]])
    with pytest.raises(ReclmError, match="row 'MostPopular' has the name of a ranking that every run"):
        suite(home, rows=[{**ROWS[0], "name": "MostPopular"}], pairs=[])
    with pytest.raises(ReclmError, match="row 'EMB-0'"):
        suite(home, rows=[{"name": "EMB-0", "settings": {"varian": "cl"}}], pairs=[])
    with pytest.raises(ReclmError, match="no language model"):
        suite(home, rows=[{"name": "x", "settings": {"source": "history", "variant": "full"}}], pairs=[])
    other = {"name": "x", "settings": {"variant": "zero", "sessions": {"history": 3}}}
    with pytest.raises(ReclmError, match="row 'x' ranks other sessions than row 'EMB-0'"):
        suite(home, rows=[ROWS[0], other], pairs=[])
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite(home).model_dump(mode="json")))
    loaded = load_session_suite(str(path))
    assert loaded == suite(home)
    assert loaded.changed(seeds=1).seeds == 1
    with pytest.raises(ReclmError, match="epochs"):
        loaded.changed(epochs=3)


def test_the_toolkits_own_suites_of_sessions_can_be_read():
    found = {name: load_session_suite(name) for name in suite_names()}
    assert [name for name, one in found.items() if one] == [
        name for name in found if name.startswith("langptune")
    ]
    assert any(found.values())


def test_table_1_of_langptune_made_small_through_the_command_line(home, tmp_path, monkeypatch, capsys):
    whole = load_session_suite("langptune-table1")
    small = suite(
        home,
        rows=whole.model_dump(mode="json")["rows"],
        pairs=whole.pairs,
        title=whole.title,
        seeds=1,
        source=whole.source,
    )
    small.to_yaml(tmp_path / "small.yaml")
    out = tmp_path / "run"
    given = ["reclm", "bench", "--suite", tmp_path / "small.yaml", "--home", home, "--out", out]
    monkeypatch.setattr(sys, "argv", list(map(str, given)))
    with pytest.raises(SystemExit) as ended:
        reclm.cli.main()
    said, err = capsys.readouterr()
    assert not ended.value.code, err
    names = ["EMB-0", "EMB-CL", "LangPTune-0", "LangPTune-CL", "LangPTune-RLSO", "LangPTune"]
    assert [row.name for row in whole.rows if "uncorrected" not in row.name] == names
    names = [row.name for row in whole.rows]
    record = Result.read(out)
    for name in ["Random", "MostPopular", *names]:
        assert record.seeds(name, WHERE) == [0]
        assert name in said
    assert record.about.failures == ()
    assert "LangPTune-RLSO" in record.row("LangPTune").against[1:]
    assert "the mean reward of LangPTune-RLSO's updates, second half less first, " in said
    assert "the mean reward of LangPTune's updates, second half less first (and the recommender was" in said
    for words in ("MRR@20", "The compared line was better in ", f"next: reclm report {out}"):
        assert words in said
    assert "| next items | LangPTune | LangPTune-RLSO | " in (out / "table.md").read_text(encoding="utf-8")
    assert (out / "comparison.png").stat().st_size > 10_000
    assert SessionSuite.from_yaml(out / "suite.yaml") == small
    monkeypatch.setattr(sys, "argv", ["reclm", "report", str(out)])
    with pytest.raises(SystemExit) as ended:
        reclm.cli.main()
    assert not ended.value.code, capsys.readouterr().err
    page = (out / "report.html").read_text()
    for words in ("Reward by step", "loss by step", "LangPTune-RLSO", "The user likes", "nothing"):
        assert words in page
