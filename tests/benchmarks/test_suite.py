"""Suites: each cell once, killed or not, in one process or several; and the table beside the published numbers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from reclm.benchmarks.experiment import execute
from reclm.benchmarks.features import Features
from reclm.benchmarks.pool import Trial, run_trial, run_trials
from reclm.benchmarks.results import Failure
from reclm.benchmarks.suite import Row, changed, load_suite, row_plan, suite_names
from reclm.benchmarks.suite_run import SuiteRun
from reclm.benchmarks.trial import Plan, Runner, TrialCache, TrialRecord
from reclm.data.dataset import Interactions
from reclm.data.storage import save as save_dataset
from reclm.errors import BadInput, Damaged, NotFound, ReclmError
from reclm.folders import Workspace
from reclm.folders import workspace as use_workspace
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.training import TrainConfig
from reclm.testing import checkerboard

DATA = checkerboard()
SUITE: dict[str, Any] = {
    "title": "parity",
    "dataset": "checkerboard",
    "seeds": 2,
    "metrics": ["recall@5", "ndcg@5"],
    "model": {"items": "id", "dim": 4},
    "train": {"epochs": 2, "batch_size": 64, "metric": "ndcg@5"},
    "rows": [
        {"name": "plain", "backbone": "biasmf", "published": {"full-shot": {"ndcg@5": 0.5}}},
        {"name": "wide", "backbone": "biasmf", "model": {"dim": 8}, "note": "twice as wide"},
    ],
}


def workspace(folder: Path) -> Workspace:
    """One that holds the checkerboard."""
    space = Workspace(folder)
    use_workspace(folder)
    save_dataset(DATA, space.dataset("checkerboard"))
    return space


def write(folder: Path, **changes: Any) -> str:
    """The suite's file."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(SUITE | changes))
    return str(path)


def run(folder: Path, **options: Any) -> SuiteRun:
    """The suite, in a workspace in ``folder``."""
    workspace(folder / "home")
    return execute(load_suite(write(folder)), progress=False, **options)


def means(ran: SuiteRun) -> dict[str, list[dict[str, Any]]]:
    return {row: [result.means for result in results] for row, results in ran.records.items()}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Width and seed of each training, as they begin."""
    seen: list[tuple[int, int]] = []
    real = Runner.run

    def counted(self: Runner, inputs: Inputs, seed: int, *told: Any) -> Any:
        seen.append((self.config.dim, seed))  # pyright: ignore[reportAttributeAccessIssue]
        return real(self, inputs, seed, *told)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


def test_each_cell_is_trained_once_and_again_when_asked(
    tmp_path: Path, trained: list[tuple[int, int]]
) -> None:
    first = run(tmp_path)
    assert trained == [(4, 0), (4, 1), (8, 0), (8, 1)]
    again = run(tmp_path)
    assert len(trained) == 4
    assert means(again) == means(first)
    assert means(run(tmp_path, fresh=True)) == means(first)
    assert len(trained) == 8


def test_a_cell_holds_every_users_values_and_the_epochs(tmp_path: Path) -> None:
    ran = run(tmp_path)
    cell, result = ran.trials["plain"][1], ran.records["plain"][1]
    users = pq.read_table(tmp_path / "home" / "cells" / cell.key / "users.parquet").to_pylist()
    full = [row["ndcg@5"] for row in users if row["protocol"] == "full-shot"]
    assert np.mean(full) == pytest.approx(result.means["full-shot"]["ndcg@5"], rel=1e-6)
    assert {row["user_id"] for row in users} <= set(DATA.users.ids())
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert result.best_epoch["full-shot"] in (1, 2)
    assert result.definition["seed"] == 1
    assert result.definition["model"]["items"] == "id"
    assert not list((tmp_path / "home" / "cells").glob(".*.new"))


SCRIPT = """
import os, sys
from pathlib import Path
from reclm.benchmarks.trial import Runner
from reclm.benchmarks.suite import load_suite
from reclm.benchmarks.experiment import execute
from reclm.folders import workspace

folder, dies = Path(sys.argv[1]), int(sys.argv[2])
log, real = folder / "trained", Runner.run

def run(self, inputs, seed, on_epoch, *rest):
    def tell(row):
        if dies and len(log.read_text().splitlines()) == dies:
            os.kill(os.getpid(), 9)
        on_epoch(row)
    with log.open("a") as stream:
        stream.write(f"{self.config.dim} {seed}\\n")
    return real(self, inputs, seed, tell, *rest)

Runner.run = run
workspace(folder / "home")
execute(load_suite(str(folder / "suite.yaml")), progress=False)
"""


def start(folder: Path, dies: int = 0) -> subprocess.Popen[bytes]:
    """A process that runs the suite, notes each training, and kills itself in the one numbered ``dies``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(dies)], env=environment)


def test_killed_it_goes_on_where_it_stopped_and_two_that_share_it_train_no_cell_twice(
    tmp_path: Path, trained: list[tuple[int, int]]
) -> None:
    write(tmp_path)
    workspace(tmp_path / "home")
    assert start(tmp_path, dies=2).wait() == -signal.SIGKILL
    assert (tmp_path / "trained").read_text().splitlines() == ["4 0", "4 1"]
    both = [start(tmp_path), start(tmp_path)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted((tmp_path / "trained").read_text().splitlines()[2:]) == ["4 1", "8 0", "8 1"]
    resumed = run(tmp_path)
    assert trained == []
    (tmp_path / "unbroken").mkdir()
    assert means(resumed) == means(run(tmp_path / "unbroken"))


def test_a_cell_that_fails_costs_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Runner.run

    def failing(self: Runner, inputs: Inputs, seed: int, *told: Any) -> Any:
        if (self.config.dim, seed) == (4, 1):  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError("no\nluck")
        return real(self, inputs, seed, *told)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", failing)
        ran = run(tmp_path)
    record = ran.result()
    assert record.about.failures == (Failure(row="plain", seed=1, reason="ValueError: no luck"),)
    assert "raise ValueError" in str(ran.records["plain"][1].traceback)
    assert [len(record.values(name, "full-shot", "ndcg@5")) for name in ("plain", "wide")] == [1, 2]
    assert not run(tmp_path).result().about.failures


def cell(seed: int = 0, **changes: Any) -> Trial:
    """A cell of the plain row."""
    options: dict[str, Any] = {"backbone": "biasmf", "model": {"items": "id", "dim": 4}}
    options |= {"train": TrainConfig(epochs=1, batch_size=64), "metrics": ("ndcg@5",)}
    inputs = Inputs(len(DATA.users), len(DATA.items), Interactions.empty())
    return Trial(Plan(**(options | changes)), seed, DATA, Features(inputs))


def test_a_cell_is_known_by_all_that_defines_it() -> None:
    one = cell()
    assert one.key == cell(model={"items": "id", "dim": 4, "l2": 1e-4}).key  # a default, spelt out
    vectors = np.eye(len(DATA.users), 8, dtype=np.float32)
    present = np.ones(len(DATA.users), bool)
    profiles = [ProfileMatrix(vectors, present), ProfileMatrix(vectors[::-1].copy(), present)]
    inputs = one.features.inputs  # pyright: ignore[reportAttributeAccessIssue]
    others = [
        cell(seed=1),
        cell(model={"items": "id", "dim": 5}),
        cell(train=TrainConfig(epochs=2, batch_size=64)),
        cell(select_on="test"),
        cell(metrics=("ndcg@10",)),
        replace(one, dataset=replace(DATA, name="other", text_template="{title}")),
        replace(one, features=Features(replace(inputs, item_text=vectors))),
        *(replace(one, features=Features(replace(inputs, user_profiles=given))) for given in profiles),
        replace(one, features=Features(replace(inputs, item_profiles=profiles[0]))),
    ]
    assert len({one.key, *(other.key for other in others)}) == 1 + len(others)


def test_a_cell_whose_process_died_in_this_run_is_not_tried_again_in_it(tmp_path: Path) -> None:
    store, one = TrialCache(tmp_path), cell()
    with store.claim(one.key) as ours:
        assert ours
        assert store.begin(one.key, "this run")  # … and the process dies
    assert "died" in str(run_trial(one, store, "this run").error)
    assert store.finished(one.key, "this run")
    assert store.finished(one.key, "another run") is None
    assert run_trial(one, store, "another run").error is None


def test_a_kill_as_a_result_is_written_leaves_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one, put = TrialCache(tmp_path), cell(), TrialCache.put

    def killed(*arguments: Any) -> None:
        put(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrialCache, "put", killed)
    with pytest.raises(KeyboardInterrupt), store.claim(one.key):
        run_trial(one, store, "this run")
    assert store.finished(one.key, "another run")
    assert not [*tmp_path.glob(".*.begun")]


def test_workers_come_to_the_same_and_one_that_dies_costs_its_cell_only(tmp_path: Path) -> None:
    endless = cell(train=TrainConfig(epochs=10**9, patience=10**9, batch_size=64))
    store, others = TrialCache(tmp_path / "two"), [cell(1), cell(2)]

    def kill() -> None:
        mark = store.folder / f".{endless.key}.begun"
        while not (mark.exists() and all(store.get(one.key) for one in others)):
            time.sleep(0.05)
        for worker in multiprocessing.active_children():
            worker.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    results = run_trials([endless, *others], store, jobs=2, progress=False)
    assert "died" in str(results[0].error)
    alone = run_trials(others, TrialCache(tmp_path / "one"), progress=False)
    assert [one.means for one in results[1:]] == [one.means for one in alone]


def test_workers_that_cannot_begin_are_named(tmp_path: Path) -> None:
    deadly = replace(cell(), dataset=Deadly())  # pyright: ignore[reportArgumentType]
    deadly.__dict__.update(key="0", definition={})
    with pytest.raises(ReclmError, match=r"ended early \(exit codes 7\)"):
        run_trials([deadly], TrialCache(tmp_path), jobs=2, progress=False)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (7,)


def test_equal_cells_run_once(tmp_path: Path, trained: list[tuple[int, int]]) -> None:
    results = run_trials([cell(), cell(), cell(1)], TrialCache(tmp_path), progress=False)
    assert len(trained) == 2
    assert results[0] == results[1] != results[2]


def test_a_cell_whose_values_are_gone_is_no_result_without_them(tmp_path: Path) -> None:
    space = workspace(tmp_path)
    run = execute(load_suite(write(tmp_path)), progress=False)
    store = TrialCache(space.trials())
    key = run.trials["plain"][0].key
    store.remove(key)
    assert store.get(key) is None
    assert not list(space.trials().glob(f"*{key}*.old"))
    with pytest.raises(Damaged, match=f"{key}/users.parquet is gone"):
        run.result()


def test_a_row_whose_tuned_folder_is_not_there_yet_says_so_and_may_run_later(tmp_path: Path) -> None:
    later = {
        "name": "tuned",
        "backbone": "biasmf",
        "profiles": {"profiler": "reclm", "adapter": str(tmp_path / "later")},
    }
    workspace(tmp_path)
    run = execute(load_suite(write(tmp_path, rows=[SUITE["rows"][0], later])), progress=False)
    assert list(run.records) == ["plain"]
    assert run.result().row("tuned").absent.startswith(f"nothing is tuned in {tmp_path / 'later'}")
    assert run.suite.rows[1].absent == "", "what is saved of the suite does not keep it from running"


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    store, one = TrialCache(tmp_path), cell()
    store.put(one.key, TrialRecord(definition={}, run="x"), None, None)
    (tmp_path / one.key / "trial.json").write_text("{")
    with pytest.raises(Damaged, match=rf"{one.key}/trial\.json is damaged; remove"):
        store.get(one.key)
    (tmp_path / one.key / "trial.json").write_text("5")
    with pytest.raises(BadInput) as caught:
        store.get(one.key)
    assert caught.value.value == 5
    users = tmp_path / one.key / "users.parquet"
    users.write_bytes(b"PAR1")
    with pytest.raises(Damaged) as caught:
        store.users(one.key)
    assert caught.value.where == users


@pytest.mark.parametrize("name", suite_names())
def test_the_suites_of_the_toolkit_are_sound(name: str) -> None:
    suite = load_suite(name)
    assert {protocol for row in suite.rows for protocol in row.published} <= {
        "full-shot",
        "zero-shot",
        "next-item",
    }
    for row in suite.rows:
        if not row.backbone:
            continue
        plan = row_plan(suite, row, True)
        assert plan.select_on == suite.select_on
        assert plan.train.metric in suite.metrics


def test_seeds_epochs_and_data_can_be_changed() -> None:
    suite = load_suite("lastfm")
    row = suite.rows[0].model_copy(update={"train": {"epochs": 9, "lr": 0.1}})
    suite = changed(suite.model_copy(update={"rows": (row,)}), dataset="gowalla", seeds=5, epochs=3)
    assert (suite.dataset, suite.seeds) == ("gowalla", 5)
    plan = row_plan(suite, suite.rows[0], True)
    assert (plan.train.epochs, plan.train.lr) == (3, 0.1)
    assert changed(suite, dataset=f"elsewhere/{suite.dataset}").comparable == suite.comparable
    by_path = suite.model_copy(update={"dataset": "./data/books", "comparable": True})
    assert changed(by_path, dataset="./data/books").comparable
    seconds = changed(load_suite("reclm-table3"), dataset="gowalla")
    assert not seconds.comparable
    assert seconds.note.endswith("the published numbers are of mind-release")


def test_some_rows_come_with_what_they_are_compared_with() -> None:
    whole = load_suite("reclm-table1")
    some = changed(whole, seeds=1, rows=["SGL +", "Bias*"])
    assert [row.name for row in some.rows] == ["BiasMF", "BiasMF +", "SGL", "SGL +"]
    assert [some.against(row) for row in some.rows] == [(), ("BiasMF",), (), ("SGL",)]
    assert some.note.endswith("; 4 of its 12 rows were asked for")
    assert changed(whole, rows=["*"]) == whole
    users = changed(load_suite("reclm-table2"), kind="user")
    assert [row.name for row in users.rows if row.backbone == "sgl"] == ["SGL", "SGL + users", "SGL + both"]
    assert {row.profiles.kinds for row in users.rows if row.profiles} == {("user",)}
    assert users.note.endswith("; user profiles alone, whatever the rows are called")
    chain = [
        Row(name="a", backbone="biasmf"),
        Row(name="b", backbone="ncf", against=("a",)),
        Row(name="c", backbone="sgl", against=("b",)),
        Row(name="d", backbone="simgcl"),
    ]
    chained = whole.model_copy(update={"rows": tuple(chain)})
    assert [row.name for row in changed(chained, rows=["c"]).rows] == ["a", "b", "c"]
    # what a row is trained with does not depend on the rows beside it
    assert row_plan(some, some.rows[3], True) == row_plan(whole, whole.rows[9], True)
    with pytest.raises(NotFound, match=r"unknown row 'LigthGCN'.*did you mean 'LightGCN'"):
        changed(whole, rows=["SGL", "LigthGCN"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, r"key 'sedes'; did you mean 'seeds'"),
        ({"seeds": 0}, r"suite\.yaml: seeds = 0"),
        ({"rows": []}, "rows"),
        ({"rows": 5, "profiles": {"user": {}}}, r"suite\.yaml: rows = 5"),
        ({"rows": [{"name": "a", "backbone": "biasmf", "modle": {}}]}, r"rows\.0\.modle"),
        ({"rows": [{"name": "a", "backbone": "biasfm"}]}, "did you mean 'biasmf'"),
        ({"rows": [{"name": "a", "backbone": "biasmf"}] * 2}, "two rows have the same name: a, a"),
        ({"rows": [{"name": "a\x1b[2J", "backbone": "biasmf"}]}, r"control character: 'a\\x1b\[2J'"),
        ({"metrics": ["NDCG@5"]}, "metric 'NDCG@5' is written ndcg@5"),
        ({"metrics": ["ndcg@5", "ndcg@5"]}, "named twice"),
        (
            {"rows": [{"name": "a", "backbone": "biasmf", "model": {"dmi": 4}}]},
            "row 'a': .*did you mean 'dim'",
        ),
        (
            {"rows": [{"name": "a", "backbone": "biasmf", "train": {"epoch": 4}}]},
            "row 'a': .*did you mean 'epochs'",
        ),
        ({"model": {"itmes": "id"}}, "did you mean 'items'"),
        ({"train": {"lr": -1}}, "lr = -1"),
        ({"train": {"metric": "ndgc@20"}}, "did you mean 'ndcg@20'"),
        ({"train": {"metric": "lift@20"}}, "metric = 'lift@20' says nothing of hits"),
        ({"metrics": ["recal@5"]}, "did you mean 'recall@20'"),
        (
            {"rows": [{"name": "a", "backbone": "biasmf", "published": {"full-shot": {"mrr@5": 0.1}}}]},
            "row 'a', full-shot: mrr@5 is not among the metrics",
        ),
        (
            {"rows": [{"name": "a", "backbone": "biasmf", "published": {"fullshot": {"ndcg@5": 0.1}}}]},
            "'fullshot'; did you mean 'full-shot'",
        ),
        (
            {
                "rows": [
                    {
                        "name": "a",
                        "backbone": "biasmf",
                        "profiles": {"profiler": "keywords", "adapter": "x"},
                    }
                ]
            },
            "profiler 'keywords' is not tuned; leave the folder out",
        ),
        ({"dataset": "chekerboard"}, "did you mean 'checkerboard'"),
    ],
)
def test_a_suite_that_cannot_be_run_says_so_before_anything_is_trained(
    tmp_path: Path, trained: list[tuple[int, int]], changes: dict[str, Any], message: str
) -> None:
    workspace(tmp_path / "home")
    with pytest.raises(ReclmError, match=message) as caught:
        execute(load_suite(write(tmp_path, **changes)), progress=False)
    assert "\n" not in str(caught.value)
    assert trained == []


def test_an_unknown_suite_offers_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'lastfm'"):
        load_suite("lasftm")
    with pytest.raises(NotFound, match=r"cannot read nowhere\.yaml"):
        load_suite("nowhere.yaml")
