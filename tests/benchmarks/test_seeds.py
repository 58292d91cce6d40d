"""``seeds: auto`` on made results whose variances are known, and as a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from reclm.benchmarks.experiment import compare
from reclm.benchmarks.results import ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.seeds import FIRST_LOOK, PILOT, expected, run_until_enough, stopped
from reclm.benchmarks.suite import Suite, changed
from reclm.benchmarks.trial import Runner
from reclm.errors import BadInput
from reclm.folders import workspace
from reclm.testing import checkerboard

USERS = 100
BASE = ResultRow(name="base")
ONE = ResultRow(name="one", against=("base",), kinds=("user",))
TWO = ResultRow(name="two", against=("base",), kinds=("user",))


def result(
    seeds: int, of_users: float = 0.0, of_seeds: float = 0.0, gain: float = 0.0, two: float = 0.0
) -> Result:
    """Values around 1; ``of_users`` and ``of_seeds``: standard deviations of the mean; ``two``: those of a row two."""
    rng = np.random.default_rng(0)
    apart, by_seed = rng.normal(size=(2, USERS)), rng.normal(size=20)
    rows = {"base": (0, 0, 0), "one": (of_users, of_seeds, gain), **({"two": (two, 0, 0)} if two else {})}
    trials = {}
    for at, (name, (users, seed_part, more)) in enumerate(rows.items()):
        for seed in range(seeds):
            rest = np.random.default_rng((at, seed)).normal(0, 0.05, USERS)
            own = users * 10 * apart[at % 2] + seed_part * by_seed[seed] + more + rest
            ids = np.array([f"u{user}" for user in range(USERS)], object)
            values = {"ndcg@20": 1 + own}
            trials[name, seed, "full-shot"] = TrialResult(ids, np.ones(USERS, int), values)
    about = RunInfo(
        title="t",
        dataset="d",
        fingerprint="f",
        seeds=seeds,
        first_look=FIRST_LOOK,
        metrics=("ndcg@20",),
        protocols=(ProtocolInfo(name="full-shot", users=USERS, candidates=50),),
        rows=tuple(row for row in (BASE, ONE, TWO) if row.name in rows),
    )
    return Result(about, trials)


def ends(**parts: float) -> tuple[int, str]:
    """The number of seeds that the rule takes, and why."""
    return next((seeds, why) for seeds in range(1, 30) if (why := stopped(result(seeds, **parts))))


def test_it_ends_with_the_first_look_where_the_variance_is_small() -> None:
    assert ends() == (FIRST_LOOK, "effects of 5.0 % can be found")
    assert expected(result(PILOT)) == FIRST_LOOK


def test_it_goes_on_while_seeds_differ_and_ends_with_20() -> None:
    seeds, reason = ends(of_seeds=0.04)
    assert FIRST_LOOK < seeds < 20
    assert reason.startswith("effects of 5.0 %")
    (test,) = result(seeds, of_seeds=0.04).verdict.by_base.values()
    assert (
        test.findable
        <= 0.05
        < result(seeds - 1, of_seeds=0.04).verdict.by_base[ONE.name, "full-shot", "ndcg@20"].findable
    )
    assert FIRST_LOOK < expected(result(FIRST_LOOK, of_seeds=0.04)) <= 20
    seeds, reason = ends(of_seeds=0.5)
    assert seeds == 20
    assert "one, full-shot" in reason
    assert expected(result(PILOT, of_seeds=0.5)) == 20


def test_it_ends_with_the_pilot_where_the_users_alone_exceed_the_limit() -> None:
    seeds, reason = ends(of_users=0.03)
    assert seeds == PILOT
    assert "more users, not seeds" in reason
    seeds, reason = ends(of_users=0.03, two=0.001)  # a second row, for which seeds do help
    assert seeds == FIRST_LOOK
    assert reason.startswith("effects of 5.0 %")
    assert "one, full-shot" in reason


@pytest.mark.parametrize("gain", [-0.3, 0.02, 0.3])
def test_it_never_looks_at_the_difference(gain: float) -> None:
    assert ends(of_seeds=0.04, gain=gain)[0] == ends(of_seeds=0.04)[0]


def test_without_profiles_the_pilot_is_all() -> None:
    plain = result(PILOT)
    about = plain.about.model_copy(update={"rows": (BASE, ResultRow(name="one", against=("base",)))})
    assert stopped(Result(about, plain.trials)).startswith("no row with profiles")


@dataclass(frozen=True)
class Run:
    """Stands for a suite that ran."""

    seeds: int
    stopped: str = ""

    def result(self) -> Result:
        return result(self.seeds, of_seeds=0.04)

    def new_seconds(self) -> float:
        return 8.0


def test_it_says_what_the_rest_may_take_and_goes_on_seed_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[range] = []

    def run_seeds(seeds: range) -> Run:
        asked.append(seeds)
        return Run(seeds.stop)

    run = run_until_enough(run_seeds, jobs=2, progress=True)  # pyright: ignore[reportArgumentType]
    assert asked == [range(PILOT), *(range(at, at + 1) for at in range(PILOT, ends(of_seeds=0.04)[0]))]
    assert run.stopped == ends(of_seeds=0.04)[1]
    first, estimate, last = capsys.readouterr().err.splitlines()
    assert "3 seeds first" in first
    assert "4.0 s a seed" in estimate
    assert "at most 17 (68 s)" in estimate
    assert run.stopped in last


def test_a_run_of_it_trains_each_seed_once_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace(tmp_path)
    trained, real = [], Runner.run

    def run(self: Runner, inputs: object, seed: int, *rest: object) -> object:
        trained.append(seed)
        return real(self, inputs, seed, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Runner, "run", run)
    data = checkerboard(users=20, items=12, cold=3)
    options = {"references": False, "epochs": 1, "progress": False, "dim": 2, "items": "id"}
    made = compare("biasmf", data, seeds="auto", **options)
    assert trained == [0, 1, 2]
    assert (made.about.seeds, made.about.first_look) == (PILOT, FIRST_LOOK)
    assert made.about.suite["seeds"] == PILOT
    assert any("seeds: auto" in remark for remark in made.about.remarks)
    again = compare("biasmf", data, seeds=4, **options)
    assert trained == [0, 1, 2, 3]
    assert again.about.first_look is None


def test_a_suite_takes_a_number_or_auto() -> None:
    suite = Suite.build(
        {"title": "t", "dataset": "d", "seeds": "auto", "rows": ({"name": "a", "backbone": "biasmf"},)}
    )
    assert suite.seeds == "auto"
    assert changed(suite, seeds=2).seeds == 2
    assert changed(suite.model_copy(update={"seeds": 2}), seeds="auto").seeds == "auto"
    with pytest.raises(BadInput) as caught:
        changed(suite, seeds="many")  # pyright: ignore[reportArgumentType]
    assert caught.value.value == "many"
