"""Suites of sessions: rows and floors, users over seeds, differences, failures, what is written."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import reclm.cli
from reclm.benchmarks.record import Record
from reclm.benchmarks.session_suite import SessionRun, SessionSuite, load_session_suite, run_session_suite
from reclm.benchmarks.session_table import differences, estimates, markdown, save, tables
from reclm.benchmarks.suite import suite_names
from reclm.data.dataset import Dataset, Interactions
from reclm.data.disk import save as save_dataset
from reclm.errors import ReclmError
from reclm.workspace import Workspace

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


def test_rows_and_floors_have_the_same_users(run):
    assert run.names == ["Random", "MostPopular", "EMB-0", "EMB-CL", "none"]
    assert not run.failures
    for seed in (0, 1):
        assert len({tuple(run.users[name][seed]) for name in run.names}) == 1
    # each seed draws its own held-out users
    assert run.users["none"][0] != run.users["none"][1]


def test_a_user_counts_once_however_many_seeds_drew_it(run):
    drawn = [set(run.users["none"][seed]) for seed in (0, 1)]
    values = run.by_user("none", "ndcg@20")
    assert set(values) == drawn[0] | drawn[1]
    for user in drawn[0] & drawn[1]:
        both = [run.values["none"][seed]["ndcg@20"][run.users["none"][seed].index(user)] for seed in (0, 1)]
        assert values[user] == pytest.approx((both[0] + both[1]) / 2)
    assert estimates(run)["none"]["ndcg@20"].mean == pytest.approx(np.mean(list(values.values())))
    test = differences(run)["Random", "none"]["ndcg@20"]
    chance = run.by_user("Random", "ndcg@20")
    assert test.difference == pytest.approx(np.mean([values[user] - chance[user] for user in values]))


def test_what_was_trained_is_not_trained_again(run, home, monkeypatch):
    from reclm.profilers.langptune import tuning

    def refused(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tuning.Alternation, "__init__", refused)
    again = run_session_suite(suite(home), Workspace(home), progress=False)
    assert not again.failures
    assert again.by_user("EMB-CL", "mrr@20") == run.by_user("EMB-CL", "mrr@20")


def test_a_row_that_fails_is_told_and_costs_the_others_nothing(home):
    rows = [{"name": "bad", "settings": {"variant": "zero", "sessions": {"history": 50}}}, ROWS[0]]
    run = run_session_suite(suite(home, rows=rows, pairs=[], seeds=1), Workspace(home), progress=False)
    ((row, seed, why),) = run.failures
    assert (row, seed) == ("bad", 0)
    assert "no sessions" in why
    assert "EMB-0" in run.names
    assert "FAILED: bad, seed 0" in markdown(run)


def test_a_row_that_cannot_run_here_shows_its_published_numbers(home):
    rows = [
        {"name": "BERT4Rec", "published": {"ndcg@20": 0.0384}, "absent": "no sequence backbone yet"},
        ROWS[0],
    ]
    ran = run_session_suite(suite(home, rows=rows, pairs=[], seeds=1), Workspace(home), progress=False)
    assert "BERT4Rec" not in ran.names
    assert ran.record().line("BERT4Rec").absent == "no sequence backbone yet"
    assert "BERT4Rec: not run here, no sequence backbone yet" in markdown(ran)


def test_what_is_written(run, tmp_path):
    save(run, tmp_path)
    record = Record.read(tmp_path)
    assert [line.name for line in record.about.lines] == run.names
    assert record.line("EMB-CL").against == "EMB-0"
    for seed in (0, 1):
        cell = record.cells["EMB-CL", seed, "next item"]
        assert cell.user_ids.tolist() == [str(user) for user in run.users["EMB-CL"][seed]]
        np.testing.assert_allclose(cell.values["ndcg@20"], run.values["EMB-CL"][seed]["ndcg@20"])
    # seeds have users of their own: a user's value is the mean over the seeds that drew it
    before, after = record.paired("Random", "none", "next item", "ndcg@20")
    test = differences(run)["Random", "none"]["ndcg@20"]
    assert before.shape == (1, test.n)
    assert (after - before).mean() == pytest.approx(test.difference)
    page = (tmp_path / "table.md").read_text()
    assert "| published | .5000 |" in page
    assert "EMB\\-CL less EMB\\-0" in page or "EMB-CL less EMB-0" in page
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert SessionSuite.from_yaml(tmp_path / "suite.yaml") == run.suite
    assert len(tables(run)) == 2


def test_bad_suites_are_refused_in_one_line(home, tmp_path):
    with pytest.raises(ReclmError, match="two rows have the same name"):
        suite(home, rows=[ROWS[0], ROWS[0]])
    with pytest.raises(ReclmError, match="row 'EMB-0'"):
        suite(home, rows=[{"name": "EMB-0", "settings": {"varian": "cl"}}], pairs=[])
    with pytest.raises(ReclmError, match="no language model"):
        suite(home, rows=[{"name": "x", "settings": {"source": "history", "variant": "full"}}], pairs=[])
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
    assert [row.name for row in whole.rows] == names
    record = Record.read(out)
    for name in ["Random", "MostPopular", *names]:
        assert record.seeds(name, "next item") == [0]
        assert name in said
    assert record.about.failures == ()
    assert record.line("LangPTune").beside == ("LangPTune-RLSO",)
    assert "the mean reward of LangPTune-RLSO's updates, second half less first, " in said
    assert "the mean reward of LangPTune's updates, second half less first (and the recommender was" in said
    for words in ("MRR@20", "Differences, user by user", f"next: reclm report {out}"):
        assert words in said
