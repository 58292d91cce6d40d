"""The protocol next-item through the one experiment: tuned profilers, recommenders of IDs, controls, search, leaks."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import reclm.cli
from reclm.benchmarks import leaks
from reclm.benchmarks.examples import examples, qualities
from reclm.benchmarks.experiment import execute
from reclm.benchmarks.suite import Suite, load_suite, suite_names
from reclm.benchmarks.suite_run import SuiteRun
from reclm.data.dataset import Dataset, Interactions
from reclm.errors import BadInput, Leak, NotFound
from reclm.folders import workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "profilers" / "langptune"))
sys.path.insert(0, str(Path(__file__).parents[1] / "profilers" / "reclm"))

import tiny_langptune  # pyright: ignore[reportMissingImports]
import tiny_tuning  # pyright: ignore[reportMissingImports]

WHERE, METRICS = "next-item", ["ndcg@5", "recall@5"]


def row(name: str, against: Any = None, **settings: Any) -> dict[str, Any]:
    return {"name": name, "backbone": "similarity", "against": against, "profiles": {"settings": settings}}


ROWS: list[dict[str, Any]] = [
    {"name": "MostPopular", "backbone": "popularity"},
    {"name": "LightGCN", "backbone": "lightgcn", "model": {"items": "id", "dim": 4}},
    row("EMB-0", source="history", variant="zero"),
    row("EMB-CL", "EMB-0", source="history", variant="cl"),
    row("LLM-0", variant="zero"),
    row("LLM-CL", "LLM-0", variant="cl"),
    row("LLM-RLSO", ["LLM-0", "EMB-0"], variant="rlso"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and an encoder."""
    folder = tmp_path_factory.mktemp("place")
    tiny_tuning.model(folder / "model")
    tiny_langptune.encoder(folder / "encoder")
    return folder


def data() -> Dataset:
    view, empty = tiny_langptune.view(), Interactions.empty()
    return Dataset(
        "tastes", view.users, view.items, view.train, empty, empty, view.item_text, (), view.text_template
    )


def suite(place: Path, *names: str, **changes: Any) -> Suite:
    """The rows of these names, or all."""
    settings = tiny_langptune.settings()
    settings["cl"]["learning_rate_alone"] = 1e-2
    sessions = {**settings.pop("sessions"), "max_item_tokens": None, "max_history_tokens": None}
    return Suite.build(
        {
            "title": "tastes",
            "dataset": "tastes",
            "sessions": sessions,
            "seeds": 2,
            "metrics": METRICS,
            "encoder": str(place / "encoder"),
            "train": {"epochs": 2, "batch_size": 64, "metric": "ndcg@5"},
            "profiles": {
                "profiler": "langptune",
                "model": str(place / "model"),
                "engine": "transformers",
                "kinds": ["user"],
                "limit": 0,
                "settings": settings,
            },
            "rows": [one for one in ROWS if not names or one["name"] in names],
            **changes,
        }
    )


def run(home: Path, suite: Suite, **options: Any) -> SuiteRun:
    workspace(home)
    return execute(suite, data(), progress=False, **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ran(home: Path, place: Path) -> SuiteRun:
    return run(home, suite(place), controls=True)


def test_all_rows_rank_for_the_held_out_users_of_the_seed(ran: SuiteRun) -> None:
    assert ran.result().about.failures == ()
    result = ran.result()
    for seed in (0, 1):
        dataset = ran.datasets[seed]
        held_out = set(dataset.users.ids(np.unique(dataset.test.user_idx)))
        for one in result.about.rows:
            assert set(result.trials[one.name, seed, WHERE].user_ids) == held_out
    assert ran.datasets[0].fingerprint != ran.datasets[1].fingerprint
    (protocol,) = result.about.protocols
    assert protocol.users > len(held_out), "each seed draws its own"
    assert protocol.candidates == len(ran.datasets[0].sessions.items)
    assert result.row("LLM-RLSO").against == ("LLM-0", "EMB-0")
    assert result.row("LightGCN").most_epochs == 2
    assert result.row("LLM-RLSO").most_epochs == 0


def test_every_row_with_profiles_has_the_controls_and_the_tuning_is_shared(ran: SuiteRun, home: Path) -> None:
    result = ran.result()
    for name in ("EMB-0", "LLM-RLSO"):
        names = {one.name for one in result.about.rows if one.stands_for == name}
        assert names == {f"{name}, {one}" for one in ("shuffled", "random", "text", "keywords")}
    tuned = [path for path in (home / "cells" / "tuned").iterdir() if path.is_dir()]
    assert len(tuned) == 2 * len(("EMB-CL", "LLM-CL", "LLM-RLSO"))
    # the mean of the history's items, by hand, with the encoder that the row was tuned to
    trial, record = ran.trials["EMB-CL, text"][0], ran.records["EMB-CL, text"][0]
    dataset, encoder = trial.dataset, tiny_langptune.TextEncoder(record.encoder[1], "cpu")
    vectors = encoder.encode(dataset.item_text["title"].to_pylist())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for user in np.unique(dataset.test.user_idx):
        own = dataset.train.item_idx[dataset.train.user_idx == user]
        mean = vectors[own].mean(0)
        scores = unit[dataset.sessions.items] @ mean
        scores[np.isin(dataset.sessions.items, own)] = -np.inf
        best = dataset.sessions.items[np.argsort(-scores)[:5]]
        wanted = dataset.test.item_idx[dataset.test.user_idx == user]
        found.append(np.isin(wanted, best).mean())
    assert record.means[WHERE]["recall@5"] == pytest.approx(np.mean(found), abs=1e-6)


def test_profiles_that_no_training_changes_are_written_once(ran: SuiteRun) -> None:
    stores = {name: ran.records[name][0].store for name in ("EMB-CL", "LLM-CL", "LLM-RLSO")}
    assert stores["EMB-CL"] == ran.trials["EMB-0"][0].features.store.folder  # pyright: ignore
    assert stores["LLM-CL"] == ran.trials["LLM-0"][0].features.store.folder  # pyright: ignore
    assert stores["LLM-RLSO"].parent.parent.name == "tuned"
    # of held-out users alone
    dataset, coverage = ran.datasets[0], ran.records["LLM-CL"][0].coverage
    held_out = np.union1d(dataset.valid.user_idx, dataset.test.user_idx)
    assert coverage == {"user": (len(held_out), len(dataset.users))}


def test_how_profiles_read_and_what_training_logged_is_recorded(ran: SuiteRun) -> None:
    result = ran.result()
    for name in ("LLM-0", "LLM-RLSO"):
        overall = result.trials[name, 0, WHERE].overall
        assert overall["words"] > 3
        assert 0 <= overall["compliance"] <= 1
        assert "words" not in result.trials[f"{name}, shuffled", 0, WHERE].overall
    assert [one["reward"] for one in result.history["LLM-RLSO", 0]]
    assert [one["loss"] for one in result.history["EMB-CL", 1]]
    assert result.trials["LLM-RLSO", 0, WHERE].seconds > result.trials["EMB-0", 0, WHERE].seconds
    remarks = " / ".join(result.about.remarks)
    assert "each seed has held-out users of its own" in remarks
    assert "profiles of LLM-RLSO: " in remarks
    assert "the mean reward of LLM-RLSO's updates, second half less first, " in remarks
    assert "no item to be found stands in its user's history" in remarks
    assert "the profiler was tuned on this training part" in remarks
    shown = examples(ran)
    assert len(shown) == 10
    assert set(shown[0].top) == set(ran.records)
    assert shown[0].profile
    writers = {one.writer for one in qualities(ran)}
    assert "langptune-history" in writers
    assert any("+rlso@" in writer for writer in writers)


def numbers(run: SuiteRun) -> dict[str, list[Any]]:
    return {name: [record.means for record in records] for name, records in run.records.items()}


def test_what_a_row_does_not_use_trains_it_no_other_way(
    ran: SuiteRun, home: Path, place: Path, monkeypatch
) -> None:
    from reclm.profilers.langptune import pipeline

    def refused(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(pipeline.Alternation, "__init__", refused)  # pyright: ignore[reportPrivateImportUsage]
    assert numbers(run(home, suite(place), controls=True)) == numbers(ran)
    other = suite(place).model_dump(mode="json")
    for one in other["rows"]:
        if one["profiles"]:
            one["profiles"]["settings"]["cl"]["learning_rate"] = 0.5  # where both are trained
    assert not run(home, Suite.build(other)).result().about.failures
    other["rows"][3]["profiles"]["settings"]["cl"]["learning_rate_alone"] = 0.5
    failures = run(home, Suite.build(other)).result().about.failures
    assert {(one.row, one.reason) for one in failures} == {("EMB-CL", "AssertionError: trained again")}


def test_two_processes_come_to_the_same(ran: SuiteRun, place: Path, tmp_path: Path) -> None:
    rows = [one for one in ROWS if one["name"] != "LLM-CL"]
    both = run(tmp_path, suite(place, rows=rows, seeds=1), jobs=2)
    assert both.result().about.failures == ()
    assert numbers(both) == {one["name"]: numbers(ran)[one["name"]][:1] for one in rows}


def start(home: Path, place: Path, dies: bool = False) -> Any:
    """A process that runs the row EMB-CL; it is killed once contrastive learning has two steps."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(home, place, dies))
    process.start()
    return process


def _run(home: Path, place: Path, dies: bool) -> None:
    if dies:
        threading.Thread(target=_kill, args=(home,), daemon=True).start()
    assert not run(home, suite(place, "EMB-0", "EMB-CL", seeds=1)).result().about.failures


def _kill(home: Path) -> None:
    while not any(path.read_text().count("\n") >= 2 for path in home.glob("cells/tuned/*/cl/metrics.jsonl")):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_trial_killed_while_it_tunes_goes_on_and_two_that_share_it_tune_once(
    ran: SuiteRun, place: Path, tmp_path: Path
) -> None:
    killed = start(tmp_path, place, dies=True)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (folder,) = [path for path in (tmp_path / "cells" / "tuned").iterdir() if path.is_dir()]
    assert not (folder / "done.yaml").exists()
    both = [start(tmp_path, place) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len((folder / "cl" / "metrics.jsonl").read_text().splitlines()) == 4
    assert (
        numbers(run(tmp_path, suite(place, "EMB-CL", "EMB-0", seeds=1)))["EMB-CL"]
        == numbers(ran)["EMB-CL"][:1]
    )


def test_fresh_forgets_what_trials_tuned_and_sampled(place: Path, tmp_path: Path, monkeypatch) -> None:
    from reclm.profilers.langptune import pipeline

    trainings, real = [], pipeline.Alternation.run  # pyright: ignore[reportPrivateImportUsage]

    def counted(self: Any) -> None:
        trainings.append(self)
        real(self)

    monkeypatch.setattr(pipeline.Alternation, "run", counted)  # pyright: ignore[reportPrivateImportUsage]
    chosen = suite(place, "EMB-0", "EMB-CL", seeds=1)
    first = run(tmp_path, chosen, controls=True)
    samples = tmp_path / "cells" / "samples" / "old.jsonl"
    samples.parent.mkdir(exist_ok=True)
    samples.touch()
    assert numbers(run(tmp_path, chosen, controls=True, fresh=True)) == numbers(first)
    assert len(trainings) == 2, "once for the row and its controls"
    assert not samples.exists()
    run(tmp_path, chosen, controls=True)
    assert len(trainings) == 2


def test_a_search_tries_options_of_the_profiler_where_they_matter(home: Path, place: Path) -> None:
    space = {"profiles.cl.learning_rate_alone": {"low": 1e-4, "high": 1e-1, "log": True}}
    chosen = suite(place, "EMB-0", "EMB-CL", seeds=1, search={"trials": 3, "space": space})
    found = run(home, chosen)
    assert found.result().about.failures == ()
    assert found.searched["EMB-0"].trials == ()
    searched = found.searched["EMB-CL"]
    rates = [one.options["profiles.cl.learning_rate_alone"] for one in searched.trials]
    assert rates[0] == 1e-2, "its own first"
    assert len(set(rates)) == 3
    best = max(searched.trials, key=lambda one: one.value or 0)
    assert searched.chosen == best.options
    plan = found.trials["EMB-CL"][0].plan
    assert (
        plan.profiles.settings["cl"]["learning_rate_alone"] == best.options["profiles.cl.learning_rate_alone"]
    )
    assert run(home, chosen, jobs=2).searched == found.searched
    with pytest.raises(NotFound) as error:
        run(home, suite(place, search={"trials": 1, "space": {"profiles.cl.rate": [1]}}))
    assert error.value.value == "profiles.cl.rate"


def test_a_failing_trial_is_recorded_and_costs_the_others_nothing(
    place: Path, tmp_path: Path, monkeypatch
) -> None:
    from reclm.profilers.langptune.profiler import LangPTuneProfiler

    def fails(*_: Any) -> None:
        raise BadInput("out of luck")

    monkeypatch.setattr(LangPTuneProfiler, "tuning", fails)
    one = run(tmp_path, suite(place, "EMB-0", "EMB-CL", seeds=1))
    assert [(failure.row, failure.seed, failure.reason) for failure in one.result().about.failures] == [
        ("EMB-CL", 0, "out of luck")
    ]
    assert one.result().seeds("EMB-0", WHERE) == [0]


def test_sessions_that_leak_end_the_run(ran: SuiteRun) -> None:
    dataset = ran.datasets[0]
    sessions = dataset.sessions
    assert sessions is not None
    with pytest.raises(Leak):
        leaks.check(replace(dataset, sessions=replace(sessions, future=sessions.history[:, :1])))
    twice = sessions.users.copy()
    twice[1] = twice[0]
    with pytest.raises(Leak, match="two sessions"):
        leaks.check(replace(dataset, sessions=replace(sessions, users=twice)))


def test_suites_that_cannot_be(place: Path) -> None:
    with pytest.raises(BadInput, match="line and at go together"):
        suite(place, rows=[{**ROWS[2], "line": "EMB"}])
    with pytest.raises(BadInput, match="names no backbone"):
        suite(place, rows=[{"name": "x"}])
    with pytest.raises(NotFound) as error:
        run(place, suite(place, rows=[row("x", varian="cl")]))
    assert error.value.value == "varian"
    with pytest.raises(BadInput, match="no language model"):
        run(place, suite(place, rows=[row("x", source="history", variant="full")]))
    langptune = [name for name in suite_names() if load_suite(name).sessions is not None]
    assert langptune
    assert langptune == [name for name in suite_names() if name.startswith("langptune")]


def test_lines_of_a_suite_through_the_command_line(
    home: Path, place: Path, tmp_path, monkeypatch, capsys
) -> None:
    rows = [{**ROWS[2], "line": "EMB-0", "at": 1}, {**ROWS[4], "line": "LLM-0", "at": 10}]
    absent = {"name": "BERT4Rec", "published": {WHERE: {"ndcg@5": 0.0384}}, "absent": "no sequence backbone"}
    small = suite(place, seeds=1, rows=[*rows, absent], axis="words").model_dump(
        mode="json", exclude_defaults=True
    )
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    data().save(home / "datasets" / "tastes")
    command = ["reclm", "bench", "suite", tmp_path / "small.yaml", "--home", home, "--out", tmp_path / "run"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        reclm.cli.main()
    output = capsys.readouterr()
    assert not ended.value.code, output.err
    for name in ("EMB-0", "LLM-0", "BERT4Rec"):
        assert name in output.out
    assert (tmp_path / "run" / "comparison.png").stat().st_size > 10_000
    assert Suite.from_yaml(tmp_path / "run" / "suite.yaml") == Suite.build(small)
