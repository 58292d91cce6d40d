"""A backbone with and without profiles, on data whose answer is known: profiles that tell it must be found to help."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reclm.backbones.ease import Ease
from reclm.benchmarks.examples import qualities
from reclm.benchmarks.experiment import compare, comparison, execute, run_suite
from reclm.benchmarks.feature_maker import FeatureMaker
from reclm.benchmarks.features import Features, Shared
from reclm.benchmarks.pool import Trial, run_trials
from reclm.benchmarks.report.page import provenance
from reclm.benchmarks.results import Result
from reclm.benchmarks.suite import REFERENCES, Row, row_plan, with_controls
from reclm.benchmarks.suite_run import SuiteRun
from reclm.benchmarks.trial import Plan, ProfileOptions, Runner, TrialCache
from reclm.data.dataset import Dataset, Interactions
from reclm.data.storage import save as save_dataset
from reclm.errors import Leak, NotFound, ReclmError
from reclm.folders import Workspace, workspace
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import write_profiles
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Scorer, evaluate
from reclm.recommend.evaluate import test_tasks as tasks_of
from reclm.recommend.saved import load_model
from reclm.recommend.training import TrainConfig
from reclm.testing import checkerboard, features, profiles

DATA = checkerboard(users=60, items=40, cold=8)
BASE = Inputs(len(DATA.users), len(DATA.items), Interactions.empty(), features(DATA))
TOLD = Inputs(BASE.users, BASE.items, BASE.train, BASE.item_text, profiles(DATA)["user"])


def ran(folder: Path, seeds: int = 2, select_on: str = "valid", epochs: int = 2) -> SuiteRun:
    """Base and Augment, whose profiles say which parity a user likes.

    Two epochs: too few for Base to learn who likes what, which the profiles tell Augment.
    """
    settings = {"dim": 4, "lr": 0.01, "batch_size": 64}
    suite = comparison(
        "biasmf",
        settings,
        DATA,
        ProfileOptions(),
        seeds=seeds,
        epochs=epochs,
        recipe="paper",
        select_on=select_on,  # pyright: ignore[reportArgumentType]
    )
    features = {"base": Features(BASE), "augment": Features(TOLD)}
    cache = TrialCache(folder / "cells", weights=True)
    trials = {
        row.name: [Trial(row_plan(suite, row, True), seed, DATA, features[row.name]) for seed in range(seeds)]
        for row in suite.rows
    }
    records = iter(run_trials([one for row in trials.values() for one in row], cache, progress=False))
    by_row = {name: [next(records) for _ in row] for name, row in trials.items()}
    return SuiteRun(suite, DATA, (DATA,) * seeds, cache, trials, by_row)


def test_profiles_that_tell_the_answer_are_better_until_base_has_learned_it_too(tmp_path: Path) -> None:
    record = ran(tmp_path, seeds=1).result()
    assert record.row("augment").base == "base"
    base, augment = (record.values(name, "full-shot", "ndcg@20").mean() for name in ("base", "augment"))
    assert augment > base
    assert record.verdict.by_base["augment", "full-shot", "ndcg@20"].better
    assert set(record.verdict.answers.values()) == {"not decided"}  # Base still rises
    longer = ran(tmp_path, seeds=1, epochs=40).result()
    assert (longer.values("base", "full-shot", "ndcg@20") > 0.999).all()
    assert longer.verdict.answers["full-shot"] == "not decided"  # there is nothing to gain
    assert any("one seed" in caveat for caveat in record.verdict.caveats)


def test_the_record_agrees_with_the_cells_and_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = ran(tmp_path)
    record = run.result()
    for name, results in run.records.items():
        means = np.array([result.means["zero-shot"]["recall@40"] for result in results], float)
        np.testing.assert_allclose(record.values(name, "zero-shot", "recall@40"), means, rtol=1e-6)
        assert record.history[name, 1] == results[1].history
    cell = record.trials["base", 0, "full-shot"]
    activity = np.bincount(DATA.train.user_idx, minlength=len(DATA.users))
    assert cell.activity.tolist() == activity[DATA.users.find(cell.user_ids)].tolist()
    before, after = record.paired("base", "augment", "full-shot", "ndcg@20")
    assert before.shape == after.shape == (2, len(tasks_of(DATA)["full-shot"].users))


def test_selection_on_test_is_said_and_joins_validation_to_training(tmp_path: Path) -> None:
    run = ran(tmp_path, seeds=1, select_on="test")
    record = run.result()
    assert "TEST" in record.about.selected_on
    assert [row["epoch"] for row in run.records["base"][0].history] == [1, 2]
    trained = DATA.joined(["train", "valid"])
    assert record.trials["base", 0, "full-shot"].activity.sum() <= len(trained)
    assert run.suite.train["metric"] == "recall@20"


def test_seeds_share_their_draws_between_rows(tmp_path: Path) -> None:
    plan = Plan(backbone="biasmf", model={"dim": 4}, train=TrainConfig(epochs=2, batch_size=64))
    one, again = (Runner(plan, DATA).run(BASE, seed=0) for _ in range(2))
    other = Runner(plan, DATA).run(BASE, seed=1)
    losses = [[row["loss"] for row in found.fit.history] for found in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]


def test_unknown_options_offer_the_nearest_and_a_missing_validation_part_is_named() -> None:
    with pytest.raises(NotFound, match="'batch_size'"):
        comparison("biasmf", {"batchsize": 3}, DATA)
    bare = Dataset(
        "bare",
        DATA.users,
        DATA.items,
        DATA.train,
        Interactions.empty(),
        DATA.test,
        DATA.item_text,
        DATA.protocols,
    )
    with pytest.raises(NotFound, match="--select-on test"):
        comparison("biasmf", {}, bare)
    assert comparison("biasmf", {}, bare, select_on="test").train["metric"] == "recall@20"


@pytest.mark.parametrize("select_on", ["valid", "test"])
def test_the_last_seeds_models_are_kept_with_the_weights_of_their_first_protocol(
    tmp_path: Path, select_on: str
) -> None:
    run = ran(tmp_path, select_on=select_on)
    save_dataset(DATA, tmp_path / "datasets" / DATA.name)
    run.save_models(tmp_path / "models")
    for name in ("base", "augment"):
        trained = load_model(tmp_path / "models" / name, Workspace(tmp_path))
        assert (trained.about.seed, trained.about.variant) == (1, name)
        with torch.inference_mode():
            found = evaluate(trained.model.scorer(), tasks_of(DATA)["full-shot"], ["ndcg@20"])  # pyright: ignore[reportCallIssue]
        assert found.mean()["ndcg@20"] == run.records[name][1].means["full-shot"]["ndcg@20"]


def test_cells_that_were_kept_without_weights_run_again_for_them(tmp_path: Path) -> None:
    plan = Plan(backbone="biasmf", model={"dim": 4}, train=TrainConfig(epochs=1))
    one = Trial(plan, 0, DATA, Features(BASE))
    (first,) = run_trials([one], TrialCache(tmp_path), progress=False)
    store = TrialCache(tmp_path, weights=True)
    assert store.finished(one.key, "x") is None
    (again,) = run_trials([one], store, progress=False)
    assert store.finished(one.key, "x") == again
    assert again.means == first.means


def test_each_row_with_a_language_models_profiles_gets_its_controls(tmp_path: Path) -> None:
    suite = comparison("biasmf", {}, DATA, ProfileOptions(profiler="zero-shot"))
    names = [row.name for row in with_controls(suite).rows]
    assert names == [
        "base",
        "augment",
        *(f"augment, {one}" for one in ("shuffled", "random", "text", "keywords")),
    ]
    assert {with_controls(suite).against(row) for row in with_controls(suite).rows[1:]} == {("base",)}
    controls = with_controls(suite).rows[2:]
    assert {with_controls(suite).stands_for(row) for row in controls} == {"augment"}
    by_hand = suite.model_copy(update={"rows": (*suite.rows, controls[0])})
    assert sorted(row.name for row in with_controls(by_hand).rows) == sorted(names), "no control twice"
    words = comparison("biasmf", {}, DATA, ProfileOptions(profiler="keywords"))
    assert [row.name for row in with_controls(words).rows][2:] == [
        f"augment, {one}" for one in ("shuffled", "random", "text")
    ], "keywords are a control themselves"


def test_a_leaking_split_ends_a_run_without_profiles_too(tmp_path: Path) -> None:
    leaked = Interactions(
        np.append(DATA.valid.user_idx, DATA.test.user_idx[0]),
        np.append(DATA.valid.item_idx, DATA.test.item_idx[0]),
    )
    workspace(tmp_path)
    suite = comparison("biasmf", {"dim": 4, "items": "id"}, DATA, epochs=1)
    save_dataset(DATA, Workspace(tmp_path).dataset(DATA.name))
    assert "no user has a test item in" in run_suite(suite, progress=False).about.remarks[-1]
    save_dataset(replace(DATA, valid=leaked), Workspace(tmp_path).dataset("leaked"))
    with pytest.raises(Leak, match="1 interactions are in valid and in test"):
        run_suite(suite, dataset="leaked", progress=False)


def test_what_profiles_are_like_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(tmp_path)
    store, profiler, *_ = FeatureMaker(DATA, Shared(None), False)._store(
        ProfileOptions(profiler="keywords"), None
    )
    told = ran(tmp_path)
    told.trials["augment"] = [
        replace(trial, features=Features(TOLD, store, profiler=profiler)) for trial in told.trials["augment"]
    ]
    users, items = qualities(told)
    assert (users.kind, users.profiles, users.distinct, users.in_format) == ("user", 60, 2, 1.0)
    assert (items.kind, items.profiles) == ("item", 40)
    assert users.seconds > 0
    monkeypatch.setattr(type(profiler), "in_format", lambda _, kind, text: "blue" in text)
    assert qualities(told)[0].in_format == 0.5  # thirty users like what is blue
    told.trials["augment"] = [
        replace(trial, features=Features(TOLD, store)) for trial in told.trials["augment"]
    ]
    assert qualities(told)[0].in_format is None


def test_edited_profiles_are_compared_as_they_read_and_controls_cover_the_same_users(tmp_path: Path) -> None:
    workspace(tmp_path)
    written = write_profiles(DATA, "keywords", limit=5, progress=False)
    edited = written.edit(written.texts("user")["id"][0], "prefers silence")
    options = {
        name: ProfileOptions(store=written.folder, **changes)
        for name, changes in {"own": {}, "keywords": {"control": "keywords"}}.items()
    }
    run = compare("biasmf", DATA, edited, seeds=1, controls=False, epochs=1, progress=False, dim=4)
    edits = run.about.suite["rows"][1]["profiles"]["edits"]
    assert list(edits["user"].values()) == ["prefers silence"]
    maker = FeatureMaker(DATA, Shared(None), False)
    plans = {name: Plan(backbone="biasmf", profiles=chosen) for name, chosen in options.items()}
    plans["edited"] = Plan(
        backbone="biasmf", profiles=ProfileOptions(store=written.folder, edits={"user": edits["user"]})
    )
    sides = {name: maker.of(plan).inputs.user_profiles for name, plan in plans.items()}  # pyright: ignore
    changed = np.any(sides["edited"].vectors != sides["own"].vectors, axis=1)
    assert np.count_nonzero(changed) == 1
    assert DATA.users.ids(np.flatnonzero(changed)) == list(edits["user"])
    np.testing.assert_array_equal(sides["keywords"].present, sides["own"].present)
    assert written.store.count("user") == 5, "the control writes no profile of anyone else"


def test_controls_of_item_text_are_absent_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(DATA, item_text=DATA.item_text.select([]))
    workspace(tmp_path)
    monkeypatch.setattr(FeatureMaker, "of", lambda *_: Features(replace(TOLD, item_text=None)))
    suite = comparison("biasmf", {"dim": 4, "items": "id"}, data, ProfileOptions(), epochs=1)
    record = execute(suite, data, controls=True, progress=False).result()
    absent = {line.name: line.absent for line in record.about.rows if line.absent}
    assert absent == dict.fromkeys(("augment, text", "augment, keywords"), "the data have no item text")


def test_a_row_that_cannot_run_here_is_told_and_not_run(tmp_path: Path) -> None:
    workspace(tmp_path)
    suite = comparison("biasmf", {"dim": 4, "items": "id"}, DATA, epochs=1)
    rows = (*suite.rows, Row(name="SASRec", absent="no sequence backbone yet"))
    record = execute(suite.model_copy(update={"rows": rows}), DATA, progress=False).result()
    assert record.row("SASRec").absent == "no sequence backbone yet"
    assert {line for line, _, _ in record.trials} == {"base"}


def test_what_is_trained_on_is_no_candidate_where_training_items_are_none() -> None:
    """Data such as LightGCN's mask training items alone; selection on the test set trains on validation, too."""
    alone = replace(DATA, protocols=tuple(replace(one, mask=("train",)) for one in DATA.protocols))
    runner = Runner(Plan(backbone="biasmf", model={"items": "id"}, select_on="test"), alone)
    usual = tasks_of(DATA)["full-shot"]  # train and valid are masked
    assert (runner.tasks["full-shot"].mask != usual.mask).nnz == 0  # pyright: ignore[reportAttributeAccessIssue]
    on_valid = Runner(runner.plan.model_copy(update={"select_on": "valid"}), alone)
    assert on_valid.tasks["full-shot"].mask.nnz < usual.mask.nnz, "as the protocol says"


def test_fault_1_a_row_whose_store_has_no_profile_is_an_error(tmp_path: Path) -> None:
    workspace(tmp_path)
    with ProfileStore.open(tmp_path / "store", DATA.fingerprint, "zero-shot") as store:
        store.add([])
    for options in ({}, {"backbone": "similarity"}):
        plan = Plan(backbone="biasmf", profiles=ProfileOptions(store=tmp_path / "store")).model_copy(
            update=options
        )
        with pytest.raises(NotFound) as error:
            FeatureMaker(DATA, Shared(None), False).of(plan)
        assert error.value.where == tmp_path / "store"


@pytest.mark.parametrize("fields", [[], ["title"]])
def test_fault_1_clicks_alone_are_known_by_their_ids(tmp_path: Path, fields: list[str]) -> None:
    workspace(tmp_path)
    blank = DATA.item_text.set_column(0, "title", [[""] * len(DATA.items)])
    data = replace(DATA, item_text=blank.select(fields))
    run = compare("biasmf", data, seeds=1, epochs=1, progress=False)
    assert run.row("base").options["items"] == "id"
    assert "TextKNN" not in [row.name for row in run.about.rows]
    with pytest.raises(NotFound) as error:
        compare("biasmf", data, epochs=1, progress=False, items="text")
    assert error.value.remedy == "--set items=id"
    with pytest.raises(ReclmError):
        compare("biasmf", data, ProfileOptions(profiler="keywords"), epochs=1, progress=False, items="id")


def test_a_stores_profiles_get_the_controls_and_remarks_of_the_profiler_that_wrote_them(
    tmp_path: Path,
) -> None:
    workspace(tmp_path)
    options: dict[str, Any] = {"seeds": 1, "epochs": 1, "progress": False, "dim": 4}
    written = write_profiles(DATA, "keywords", terms=3, progress=False)
    by_name = compare(
        "biasmf", DATA, ProfileOptions(profiler="keywords", settings={"terms": 3}, tune=False), **options
    )
    for stored in (written, written.folder, Profiles.open(written.folder, DATA)):
        by_store = compare("biasmf", DATA, stored, **options)
        names = [[row.name for row in run.about.rows] for run in (by_name, by_store)]
        assert names[0] == names[1]
        assert "augment, keywords" not in names[0]
        assert by_store.about.remarks == by_name.about.remarks
    assert "profiles were looked at" in " ".join(by_name.about.remarks)


def test_a_store_whose_profiler_is_not_known_is_not_compared_with_its_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code.py").write_text("class Profiler: pass")
    written = write_profiles(DATA, "keywords", progress=False)
    for name in ("", "gone", "own_code:Profiler"):
        written.store.describe(profiler={"profiler": name})
        maker = FeatureMaker(DATA, Shared(None), False)
        _, profiler, checked, _ = maker._store(ProfileOptions(store=written.folder), None)
        assert profiler is None
        assert "not known what wrote" in checked[-1]
    assert "own_code" not in sys.modules


def test_a_plug_ins_baseline_counts_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    own = f"{Path(__file__).stem}:Recent"
    options: dict[str, Any] = {"seeds": 1, "epochs": 1, "items": "id", "dim": 4}
    run = compare([own, "popularity", "biasmf"], DATA, references=False, progress=False, **options)
    assert [row.baseline for row in run.about.rows] == [True, True, False]


class Recent(Backbone):
    """Ranks the items by their row."""

    baseline = True

    def scorer(self) -> Scorer:
        return lambda user_idx, item_idx: item_idx.float().repeat(len(user_idx), 1)


def test_references_stand_in_every_comparison_with_what_they_chose(tmp_path: Path) -> None:
    workspace(tmp_path)
    run = compare("popularity", DATA, seeds=3, progress=False)
    by_backbone = {row.backbone: row for row in run.about.rows}
    assert by_backbone.keys() == {"popularity", *REFERENCES}
    assert len(run.about.rows) == len(by_backbone)
    ease, given = (
        by_backbone["ease"],
        compare("ease", DATA, references=False, seeds=1, progress=False, l2=300.0),
    )
    assert ease.chosen["l2"] in Ease.GRID
    assert any("EASE: l2" in text for name, text in provenance(run) if name == "search")
    assert given.row("base").chosen == {}  # a default that is given is not chosen
    seeds = run.trials["EASE", 0, "full-shot"], run.trials["EASE", 2, "full-shot"]
    assert seeds[0].values["ndcg@20"].tolist() == seeds[1].values["ndcg@20"].tolist()
    assert len({id(one) for one in seeds}) == 2

    # what the data can tell is taken from them: nothing is trained again, and stored with the run
    apart = DATA.check(progress=False)
    assert run.folder is not None
    stored = Result.load(run.folder).data
    assert stored is not None
    assert given.data is None
    assert stored.reach["validation"]["EASE"] == apart.reach["validation"]["EASE"]
    assert stored.reach["full-shot"]["EASE"] == seeds[0].means["ndcg@20"] == apart.reach["full-shot"]["EASE"]
    assert (stored.histories, stored.hopes) == (apart.histories, apart.hopes)
