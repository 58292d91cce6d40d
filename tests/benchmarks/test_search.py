"""The search: equal budgets, chosen on validation alone, the same however often it is killed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from reclm.benchmarks import search as searching
from reclm.benchmarks.experiment import execute
from reclm.benchmarks.features import Features
from reclm.benchmarks.pool import Trial
from reclm.benchmarks.report.page import provenance
from reclm.benchmarks.results import Result
from reclm.benchmarks.search import Range, Search, run_search, spaces, with_options
from reclm.benchmarks.suite import Suite, changed
from reclm.benchmarks.suite_run import SuiteRun
from reclm.benchmarks.trial import Plan, Runner, TrialCache, TrialRecord
from reclm.data.storage import save as save_dataset
from reclm.errors import BadInput, ReclmError
from reclm.folders import Workspace, workspace
from reclm.recommend.base import Inputs
from reclm.recommend.training import TrainConfig
from reclm.testing import checkerboard

DATA = checkerboard()
LR = {"low": 1e-4, "high": 1e-1, "log": True}
SUITE: dict[str, Any] = {
    "title": "searched",
    "dataset": "checkerboard",
    "seeds": 2,
    "metrics": ["ndcg@5"],
    "model": {"items": "id", "dim": 4},
    "train": {"epochs": 1, "batch_size": 64, "metric": "ndcg@5"},
    "search": {"trials": 7, "space": {"lr": LR, "dim": [4, 8]}},
    "rows": [
        {"name": "base", "backbone": "biasmf"},
        {"name": "augment", "backbone": "biasmf", "model": {"l2": 0.1}, "against": "base"},
        {"name": "floor", "backbone": "popularity"},
    ],
}


class Boom(BaseException):
    """Ends a run as a kill does."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plan of each training of a backbone that learns."""
    seen: list[Plan] = []
    real = Runner.run

    def counted(self: Runner, inputs: Inputs, seed: int, *told: Any) -> Any:
        if self.plan.backbone != "popularity":
            seen.append(self.plan)
        return real(self, inputs, seed, *told)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


def run(folder: Path, fresh: bool = False, weights: bool = False, **changes: Any) -> SuiteRun:
    """The suite, in a workspace in ``folder``."""
    space = Workspace(folder)
    save_dataset(DATA, space.dataset("checkerboard"))
    workspace(folder)
    return execute(Suite.build(SUITE | changes), fresh=fresh, weights=weights, progress=False)


def found(ran: SuiteRun) -> dict[str, Any]:
    return {row: (one.trials, one.chosen) for row, one in ran.searched.items()}


def test_every_trained_row_has_the_same_budget_and_runs_its_seeds_with_what_it_chose(
    tmp_path: Path, trained: list[Plan]
) -> None:
    ran = run(tmp_path)
    assert {row: len(one.trials) for row, one in ran.searched.items()} == {
        "base": 7,
        "augment": 7,
        "floor": 0,
    }
    first = {row: one.trials[0].options for row, one in ran.searched.items() if one.trials}
    own = {"lr": 1e-3, "dim": 4}
    assert first == {"base": own, "augment": own}
    assert len({cell.key for row in ("base", "augment") for cell in ran.trials[row]}) == 4
    assert len(trained) == 2 * 7 + 2  # seed 0 of what was chosen is kept
    for row in ("base", "augment"):
        chosen = ran.searched[row].chosen
        best = max(values_of(ran.searched[row]))
        assert next(one.options for one in ran.searched[row].trials if one.value == best) == chosen
        assert all(cell.plan.train.lr == chosen["lr"] for cell in ran.trials[row])
        assert all(cell.definition["model"]["dim"] == chosen["dim"] for cell in ran.trials[row])
        assert ran.records[row][0].history[0]["valid ndcg@5"] == best
    record = ran.result()
    record.save(tmp_path / "run")
    line = Result.load(tmp_path / "run").about.rows[1]
    assert (line.trials, line.chosen) == (ran.searched["augment"].trials, ran.searched["augment"].chosen)
    assert line.base == "base"
    told = " / ".join(text for _, text in provenance(record))
    assert "7 trials for every trained row alike (seed 0), of lr 0.0001 to 0.1 (log), dim 4/8" in told
    assert "augment: lr " in told
    assert "the best of 7 trials" in told


def test_killed_it_replays_what_is_kept_and_ends_the_same(
    tmp_path: Path, trained: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = found(run(tmp_path / "unbroken"))
    trained.clear()
    real = Runner.run

    def dying(self: Runner, inputs: Inputs, seed: int, *told: Any) -> Any:
        if len(trained) == 12:
            raise Boom
        return real(self, inputs, seed, *told)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", dying)
        with pytest.raises(Boom):
            run(tmp_path / "killed")
    assert found(run(tmp_path / "killed")) == unbroken
    assert len(trained) == 16
    assert found(run(tmp_path / "killed")) == unbroken
    assert len(trained) == 16
    assert found(run(tmp_path / "killed", fresh=True)) == unbroken
    assert len(trained) == 32


def values_of(searched: searching.Searched) -> list[float]:
    """What its trials came to; none failed."""
    found = [trial.value for trial in searched.trials if trial.value is not None]
    assert len(found) == len(searched.trials)
    return found


def by_hand(
    monkeypatch: pytest.MonkeyPatch,
    value: Callable[[Trial], float | Exception],
    search: Search,
    plan: Plan,
    jobs: int = 1,
) -> searching.Searched:
    """A search in which each cell's validation value is told, and nothing else can be read of its result."""

    def answered(cells: list[Trial], *given: Any, **how: Any) -> list[TrialRecord]:
        assert len(cells) <= searching.BATCH
        assert how["jobs"] == jobs
        results = []
        for cell in cells:
            came = value(cell)
            failed = isinstance(came, Exception)
            history = [] if failed else [{"epoch": 1.0}, {"epoch": 2.0, "valid ndcg@20": came}]
            validation = {} if failed else {"ndcg@20": came}
            result = TrialRecord(
                definition={},
                run="",
                error=str(came) if failed else None,
                history=history,
                validation=validation,  # pyright: ignore[reportArgumentType]
            )
            for name in ("means", "best_epoch", "definition"):
                del vars(result)[name]  # whoever reads the test's numbers stops here
            results.append(result)
        return results

    monkeypatch.setattr(searching, "run_trials", answered)
    inputs = Inputs(4, 4, DATA.train)
    return run_search(
        search,
        {"one": plan},
        lambda plan: Trial(plan, 0, DATA, Features(inputs)),
        TrialCache(Path(tempfile.mkdtemp())),
        jobs=jobs,
        progress=False,
    )["one"]


PLAN = Plan(backbone="biasmf", model={"items": "id"})
OF_LR = Search(trials=30, space={"lr": Range(low=1e-5, high=1.0, log=True)})


def test_the_best_validation_value_wins_whatever_the_processes_and_no_test_value_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    won = by_hand(monkeypatch, lambda cell: -abs(cell.plan.train.lr - 0.03), OF_LR, PLAN)
    values = values_of(won)
    assert won.plan.train.lr == won.chosen["lr"] == won.trials[values.index(max(values))].options["lr"]
    assert won.plan.train.lr == pytest.approx(0.03, rel=0.35)
    late = [abs(trial.options["lr"] - 0.03) for trial in won.trials[15:]]
    early = [abs(trial.options["lr"] - 0.03) for trial in won.trials[1:10]]
    assert sum(late) / len(late) < sum(early) / len(early)  # it learns what it is told
    assert won == by_hand(monkeypatch, lambda cell: -abs(cell.plan.train.lr - 0.03), OF_LR, PLAN, jobs=7)
    assert [trial.options["lr"] for trial in won.trials[1:4]] == [drawn(seed) for seed in (1, 2, 3)]


def drawn(seed: int) -> float:
    """Return what a sampler draws at random for the trial of this number."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask().suggest_float("lr", 1e-5, 1.0, log=True)


def test_weights_are_kept_of_what_was_chosen_alone(tmp_path: Path, trained: list[Plan]) -> None:
    ran = run(tmp_path, weights=True)
    kept = {path.parent.name for path in (tmp_path / "cells").glob("*/weights.safetensors")}
    assert kept == {cell.key for row in ran.trials.values() for cell in row}
    assert len(list((tmp_path / "cells").glob("*/trial.json"))) > len(kept)
    trained.clear()
    assert found(run(tmp_path, weights=True)) == found(ran)
    assert not trained


def test_a_failed_trial_counts_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def value(cell: Trial) -> float | Exception:
        lr = cell.plan.train.lr
        return ValueError("diverged") if lr > 0.05 else float("nan") if lr < 1e-4 else lr

    won = by_hand(monkeypatch, value, OF_LR, PLAN)
    assert len(won.trials) == 30
    assert {trial.error for trial in won.trials} == {"", "diverged", "no valid ndcg@20"}
    assert all((trial.value is None) == bool(trial.error) for trial in won.trials)
    assert won.chosen["lr"] == max(t.options["lr"] for t in won.trials if t.options["lr"] <= 0.05)
    lost = by_hand(monkeypatch, lambda _: ValueError("no luck"), OF_LR, PLAN)
    assert (len(lost.trials), lost.chosen, lost.plan) == (30, {}, PLAN)


def test_whole_numbers_and_choices_keep_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    space: Any = {"dim": {"low": 2, "high": 64, "log": True}, "items": ["id", "id+text"], "normalize": [True]}
    search = Search.build({"trials": 12, "space": space})
    won = by_hand(monkeypatch, lambda cell: cell.plan.model["dim"], search, PLAN)
    assert all(type(trial.options["dim"]) is int for trial in won.trials)
    assert {trial.options["items"] for trial in won.trials} == {"id", "id+text"}
    assert won.trials[0].options["normalize"] is True


def test_the_default_space_is_what_a_backbone_has_of_it() -> None:
    plans = {name: Plan(backbone=name, model={"items": "id"}) for name in ("biasmf", "simgcl")}
    parts = spaces(Search(), plans)
    assert {row: list(part) for row, part in parts.items()} == {
        "biasmf": ["lr", "l2"],
        "simgcl": ["lr", "l2", "ssl"],
    }


def test_options_go_where_they_belong() -> None:
    plan = with_options(PLAN, {"lr": 0.5, "dim": 7})
    assert (plan.train, plan.model) == (TrainConfig(lr=0.5), {"items": "id", "dim": 7})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {"lrr": LR}}, "unknown option to search 'lrr'; did you mean 'lr'"),
        ({"space": {"metric": ["ndcg@5", "recall@5"]}}, "unknown option to search 'metric'"),
        ({"space": {"lr": {"lo": 1, "high": 2}}}, "search space of lr key 'lo'; did you mean 'low'"),
        ({"space": {"lr": {"low": 2, "high": 1}}}, "low = 2 must be below high = 1"),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, "a logarithm needs low above 0"),
        ({"space": {"l2": {"low": -1, "high": 1}}}, "row 'base', search: backbone biasmf: l2 = -1"),
        ({"space": {"dim": {"low": 1.5, "high": 3}}}, "row 'base', search: backbone biasmf: dim = 1.5"),
        ({"space": {"items": {"low": 0, "high": 1}}}, "items is not a number; give a list of choices"),
        ({"space": {"items": ["id", "txt"]}}, "items = 'txt'"),
        ({"space": {"items": []}}, "items has no choice"),
        ({"space": {}}, "nothing to search"),
        ({"trials": -1}, "trials = -1"),
    ],
)
def test_a_search_that_cannot_be_says_so_before_anything_is_trained(
    tmp_path: Path, trained: list[Plan], search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReclmError, match=message) as caught:
        run(tmp_path, search=search)
    assert "\n" not in str(caught.value)
    assert trained == []


def test_selection_on_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a search chooses by validation") as caught:
        run(tmp_path, select_on="test")
    assert "\n" not in str(caught.value)


def test_trials_can_be_changed_and_keep_the_suites_space() -> None:
    suite = Suite.build(SUITE)
    assert changed(suite, search=3).search == Search(trials=3, space=suite.search.space)
    assert changed(suite.model_copy(update={"search": None}), search=3).search == Search(trials=3)
