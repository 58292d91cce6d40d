"""Where there is nothing to find, false alarms come at the nominal rate; a gain of 5 % is found.

``python -m tools.null_tables`` counts more tables, and prints the rates.

Why seeds are drawn too: seeds of one variant differ by more than its users alone let expect, so that a test over users
finds "differences" between two groups of trainings of the very same thing.
"""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from reclm.benchmarks.seeds import FIRST_LOOK
from reclm.benchmarks.significance import LEVEL, Parts, paired
from reclm.benchmarks.trial import Plan, Runner
from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.recommend.base import Inputs
from reclm.recommend.training import TrainConfig
from tools.null_tables import alarms, auto, found, table, with_seeds

REPEATS = 200
USERS = 900


def most_alarms(repeats: int) -> float:
    """The rate of false alarms that chance exceeds once in a thousand tries, at a true rate of ``LEVEL``."""
    return LEVEL + 3.1 * math.sqrt(LEVEL * (1 - LEVEL) / repeats)


def tastes(items: int = 60, each: int = 9) -> Dataset:
    """Users with tastes of their own, popular items, and chance: six items to learn, one to select by, two to test."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(USERS, 4)) @ rng.normal(size=(4, items)) / 2
    likes = taste + 2 * rng.normal(size=items) + rng.gumbel(size=(USERS, items))
    chosen = rng.permuted(np.argsort(-likes, axis=1)[:, :each], axis=1)

    def split(start: int, stop: int) -> Interactions:
        return Interactions(np.repeat(np.arange(USERS), stop - start), chosen[:, start:stop].ravel())

    return Dataset(
        "tastes",
        IdMap((f"u{user}" for user in range(USERS)), "user"),
        IdMap((f"i{item}" for item in range(items)), "item"),
        split(0, 6),
        split(6, 7),
        split(7, 9),
        pa.table({"title": [f"item {item}" for item in range(items)]}),
        (Protocol("full-shot", np.arange(items)),),
    )


@pytest.fixture(scope="module")
def trained() -> np.ndarray:
    """NDCG@20 of every user under 40 trainings of the same variant, ``(40, 900)``."""
    training = TrainConfig(epochs=6, lr=0.03, batch_size=2048, eval_every=6)
    plan = Plan(backbone="biasmf", model={"dim": 16, "items": "id"}, train=training, metrics=("ndcg@20",))
    dataset = tastes()
    runs, inputs = Runner(plan, dataset), Inputs(USERS, len(dataset.items), Interactions.empty(), None)
    found = [runs.run(inputs, seed).results["full-shot"].values["ndcg@20"] for seed in range(40)]
    return np.stack(found).astype(np.float64)


def groups(trained: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """``REPEATS`` draws of two groups of ``size`` trainings that share none."""
    rng = np.random.default_rng(1)
    draws = [rng.permutation(len(trained))[: 2 * size] for _ in range(REPEATS)]
    return [(trained[one[:size]], trained[one[size:]]) for one in draws]


@pytest.mark.parametrize("size", [3, 5])
def test_trainings_of_the_same_variant_are_not_told_apart(trained: np.ndarray, size: int) -> None:
    pairs = groups(trained, size)
    alarms = np.mean([paired(one, other).p < LEVEL for one, other in pairs])
    over_users = np.mean([paired(one.mean(0), other.mean(0)).p < LEVEL for one, other in pairs])
    assert alarms <= most_alarms(REPEATS)
    assert over_users > 0.2  # over users alone "significant" means little


def test_one_seed_each_tells_two_models_apart_and_not_two_methods(trained: np.ndarray) -> None:
    alarms = np.mean([paired(one, other).p < LEVEL for one, other in groups(trained, 1)])
    assert alarms > 0.2  # which is why a verdict on one seed says so


def test_a_planted_gain_of_5_percent_is_found(trained: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    tests = [paired(one, 1.05 * other + rng.normal(0, 0.1, USERS)) for one, other in groups(trained, 3)]
    assert np.mean([test.p < LEVEL and test.difference > 0 for test in tests]) > 0.8


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize(
    "parts",
    [(1, 0, 0), (0, 0, 1), (1, 1, 1), (0.2, 0.1, 1)],
    ids=lambda parts: "users {}, seeds {}, rest {}".format(*parts),
)
def test_false_alarms_at_known_variances(parts: tuple[float, float, float], seeds: int) -> None:
    """Standard deviations of the difference's parts; one seed is a claim about its own models, whose mean is fixed."""
    repeats, users = 400, 40
    rng = np.random.default_rng(seeds)
    of_users, of_seeds, rest = parts
    alarms = 0
    for _ in range(repeats):
        change = of_users * rng.normal(size=users) + rest * rng.normal(size=(seeds, users))
        if seeds > 1:
            change += of_seeds * rng.normal(size=(seeds, 1))
        alarms += paired(np.zeros_like(change), change).p < LEVEL
    assert alarms / repeats <= most_alarms(repeats)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seeds", [0.0, 0.1, 0.3], ids=lambda sd: f"seeds {sd}")
def test_false_alarms_where_seeds_draw_users_of_their_own(of_seeds: float, seeds: int) -> None:
    """A fifth of 300 users a seed, with what they always differ by, what their seed does, and the rest."""
    repeats, users = 400, 300
    rng = np.random.default_rng(seeds)
    alarms = 0
    for _ in range(repeats):
        change = np.full((seeds, users), np.nan)
        of_users = 0.5 * rng.normal(size=users)
        for row in change:
            drawn = rng.choice(users, users // 5, replace=False)
            row[drawn] = of_users[drawn] + of_seeds * rng.normal() + rng.normal(size=len(drawn))
        change = change[:, ~np.isnan(change).all(0)]
        alarms += paired(np.zeros_like(change), change).p < LEVEL
    assert alarms / repeats <= most_alarms(repeats)


def test_users_of_their_own_by_hand() -> None:
    change = np.random.default_rng(0).normal(0.2, 1, 40)
    alone = np.full((2, 40), np.nan)
    alone[0, :20], alone[1, 20:] = change[:20], change[20:]
    test = paired(np.zeros_like(alone), alone)
    means, parts = (
        [change[:20].mean(), change[20:].mean()],
        [change[:20].var(ddof=0), change[20:].var(ddof=0)],
    )
    # W and B by hand
    of_users, of_seeds = sum(parts) / 20 / 4 * 40 / 38, np.var(means, ddof=1) / 2
    assert test.difference == pytest.approx(np.mean(means))
    share = of_seeds / (of_seeds + of_users)
    critical = share * stats.t.ppf(0.975, 1) + (1 - share) * stats.t.ppf(0.975, 38)
    half = critical * max(of_users, of_seeds) ** 0.5
    assert (test.low, test.high) == pytest.approx((np.mean(means) - half, np.mean(means) + half))
    assert (test.n, test.seeds) == (40, 2)


def test_whole_tables_raise_false_alarms_at_the_nominal_rate_also_where_auto_stopped() -> None:
    rng, tables = np.random.default_rng(0), 16
    for raised in zip(
        *(
            [alarms(with_seeds(whole, FIRST_LOOK, None)), alarms(auto(whole))]
            for whole in (table(rng, users=60) for _ in range(tables))
        ),
        strict=True,
    ):
        for kind in raised[0]:
            assert np.mean([of_table[kind] for of_table in raised]) <= most_alarms(tables)


def test_where_auto_stopped_below_5_percent_a_gain_of_5_percent_is_found() -> None:
    rng = np.random.default_rng(1)
    hits = [own for _ in range(16) for own, _ in found(auto(table(rng, users=60, gain=0.05)))]
    assert len(hits) >= 10
    assert np.mean(hits) >= 0.8 - 3.1 * math.sqrt(0.8 * 0.2 / len(hits))


def test_a_rule_that_stops_by_the_seeds_variance_needs_the_degrees_of_freedom_of_its_first_look() -> None:
    """Seeds alone differ, by so much that the rule looks often: the usual test's false alarms are above nominal."""
    rng, repeats, first, most = np.random.default_rng(0), 1500, 5, 20
    by_seed = 0.05 * rng.normal(size=(repeats, most))
    parts = [Parts(0.0, 1, 1.0, seeds - 1, first - 1, 0.0, seeds) for seeds in range(first, most)]
    findable = [part.findable * by_seed[:, : part.size].std(axis=1, ddof=1) for part in parts]
    enough = np.column_stack([*findable, np.zeros(repeats)]) <= 0.05
    usual = corrected = 0
    for of_run, seeds in zip(by_seed, (first + enough.argmax(axis=1)).tolist(), strict=True):
        change = of_run[:seeds, None] + np.array([-1e-9, 1e-9])  # of two users, who hardly differ
        usual += paired(0 * change, change).p < LEVEL
        corrected += paired(0 * change, change, first_look=first).p < LEVEL
    assert corrected / repeats <= most_alarms(repeats) < usual / repeats
