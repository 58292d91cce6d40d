"""The ways profiles enter the rows of a suite, controls and the automatic one included."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_encoder import use_encoder

from reclm.benchmarks.auto_trials import parts
from reclm.benchmarks.experiment import compare, comparison
from reclm.benchmarks.feature_maker import FeatureMaker
from reclm.benchmarks.features import Features, Shared
from reclm.benchmarks.pool import Trial, run_trials
from reclm.benchmarks.results import KEPT, Result
from reclm.benchmarks.row_profiles import controlled_texts
from reclm.benchmarks.suite import Suite, row_plan
from reclm.benchmarks.trial import Plan, ProfileOptions, TrialCache
from reclm.data.storage import save as save_dataset
from reclm.errors import BadInput, NotFound, ReclmError
from reclm.folders import Workspace, workspace
from reclm.profiles.profiles import Profiles
from reclm.recommend.base import Inputs
from reclm.recommend.saved import load_model
from reclm.recommend.training import TrainConfig
from reclm.testing import checkerboard, features, profiles

DATA = checkerboard(users=60, items=40, cold=8)
BLAND = replace(DATA, name="bland", item_text=DATA.item_text.set_column(0, "title", [["a film"] * 40]))
"""Its titles tell nothing."""
SMALL: dict[str, Any] = {
    "dim": 4,
    "lr": 0.01,
    "batch_size": 64,
    "items": "text",
    "epochs": 3,
    "recipe": "paper",
}
QUICK: dict[str, Any] = {"seeds": 1, "progress": False, "references": False}


class Parity:
    """An encoder that knows two words, and notes what it reads."""

    dim = 8
    name = source = "parity"

    def __init__(self, name: str | None = None) -> None:
        pass

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        READ.extend(texts)
        return np.array([["even" in text, "odd" in text, *[0] * 6] for text in texts], np.float32)


READ: list[str] = []


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_encoder(monkeypatch, Parity)
    workspace(tmp_path / "home")
    for data in (DATA, BLAND):
        save_dataset(data, Workspace(tmp_path / "home").dataset(data.name))
    READ.clear()
    return tmp_path / "home"


def told(data: Any = BLAND, kinds: Sequence[str] = ("user", "item")) -> Profiles:
    """Profiles that tell the parity of everybody."""
    frames: dict[str, Any] = {}
    for kind in kinds:
        ids = data.view().idmap(kind).ids()
        frames[f"{kind}s"] = pd.DataFrame(
            {"id": ids, "text": [f"{('even', 'odd')[n % 2]} {n}" for n in range(len(ids))]}
        )
    return Profiles.from_frames(data, **frames)


def made(store: Profiles, data: Any = BLAND, **options: Any) -> Features:
    plan = Plan(
        backbone="biasmf", model={"items": "text"}, profiles=ProfileOptions(store=store.folder, **options)
    )
    features = FeatureMaker(data, Shared(None), False).of(plan)
    assert isinstance(features, Features)
    return features


def test_texts_of_profiles_and_controls_join_the_items_texts() -> None:
    store = told()
    own = [f"{('even', 'odd')[n % 2]} {n}" for n in range(40)]
    READ.clear()
    features = made(store, fusion="text", kinds=("item",))
    assert set(READ) == {f"a film. {text}" for text in own}, "neither texts nor profiles alone"
    assert features.coverage == {"item": (40, 40)}
    inputs = features.inputs.by("text")
    assert inputs.item_profiles is inputs.user_profiles is None
    np.testing.assert_array_equal(inputs.item_text, Parity().encode(own))  # pyright: ignore[reportArgumentType]
    READ.clear()
    made(store, fusion="text", kinds=("item",))
    assert READ == [], "they are cached"
    for control, second in (("text", "a film"), ("keywords", None)):
        READ.clear()
        controlled = made(store, fusion="text", kinds=("item",), control=control)
        assert all(text.startswith("a film. ") for text in READ)
        assert second is None or set(READ) == {f"a film. {second}"}
        assert controlled.coverage == features.coverage
        assert controlled.definition != features.definition
    READ.clear()
    made(store, fusion="text", kinds=("item",), control="shuffled")
    assert READ == [] or set(READ) <= {f"a film. {text}" for text in own}


def test_a_strangers_text_is_nobodys_own_and_random_vectors_are_none() -> None:
    texts = [*(str(n) for n in range(9)), "", ""]
    view = BLAND.view()

    def no_words() -> Any:
        raise AssertionError

    shuffled = controlled_texts("shuffled", texts, view, no_words)
    assert shuffled is not None
    assert sorted(shuffled) == sorted(texts)
    assert shuffled[9:] == ["", ""]
    assert all(own != other for own, other in zip(texts[:9], shuffled[:9], strict=True))
    assert controlled_texts("random", texts, view, no_words) is None
    assert controlled_texts(None, texts, view, no_words) == texts


def test_each_fusion_is_a_row_of_its_own_trials_and_the_base_is_the_same() -> None:
    store = told()
    definitions = {
        fusion: made(store, fusion=fusion).definition for fusion in ("dual-mlp", "residual", "text", "auto")
    }
    assert len({str(definition) for definition in definitions.values()}) == 4
    assert set(definitions["dual-mlp"]) == {"item_text", "user_profiles", "item_profiles"}, "as it was"
    plain = FeatureMaker(BLAND, Shared(None), False).of(Plan(backbone="biasmf", model={"items": "text"}))
    automatic = made(store, fusion="auto")
    trial = Trial(Plan(backbone="biasmf", profiles=ProfileOptions(fusion="auto")), 0, BLAND, automatic)
    of_parts = {way: part.features.definition for way, part in parts(trial, automatic).items()}
    expected = {"none": plain.definition, "residual": definitions["residual"], "text": definitions["text"]}
    assert of_parts == expected


def test_rows_with_text_say_so_and_have_no_random_control() -> None:
    run = compare("biasmf", BLAND, told(), fusion="text", **QUICK, **SMALL)
    absent = {row.name: row.absent for row in run.about.rows if row.absent}
    assert list(absent) == ["augment, random"]
    assert "no text" in absent["augment, random"]
    assert {row.name for row in run.about.rows} >= {"augment, shuffled", "augment, text", "augment, keywords"}
    assert run.row("augment").coverage == {"user": (60, 60), "item": (40, 40)}
    assert any("join the items' texts" in remark for remark in run.about.remarks)
    assert run.folder is not None
    saved = load_model(run.folder / "models" / "augment")
    assert (saved.about.fusion, saved.inputs.item_profiles) == ("text", None)
    assert saved.inputs.user_profiles is not None
    means = (
        run.values("augment", "zero-shot", "ndcg@20").mean(),
        run.values("base", "zero-shot", "ndcg@20").mean(),
    )
    assert means[0] > means[1]


def automatic(run: Result) -> dict[str, str]:
    return {
        row.name: row.chosen for row in run.about.rows if any(name.startswith(KEPT) for name in row.chosen)
    }  # pyright: ignore


def test_auto_keeps_what_tells_and_leaves_out_what_does_not() -> None:
    options = QUICK | {"seeds": 2}
    run = compare("biasmf", BLAND, told(), fusion="auto", **options, **SMALL)
    kept: dict[str, Any] = automatic(run)
    assert set(kept) == {
        "augment",
        *(f"augment, {one}" for one in ("shuffled", "random", "text", "keywords")),
    }
    for protocol in ("full-shot", "zero-shot"):
        assert "none" not in kept["augment"][KEPT + protocol]
        assert kept["augment, random"][KEPT + protocol] != "text", "it has none"
    assert set(run.verdict.kept) == {("augment", "full-shot"), ("augment", "zero-shot")}
    assert all("its fusion, by validation" in reason for reason in run.verdict.reasons())
    # a model that knows all it needs: profiles can only mislead it
    longer = SMALL | {"epochs": 30, "lr": 0.05, "items": "id+text"}
    wrong = Profiles.from_frames(
        DATA, users=pd.DataFrame({"id": DATA.users.ids(), "text": ["even", "odd"] * 30})
    )
    wrong = replace(wrong, edits={("user", f"u{n}"): ("even", "odd")[n // 2 % 2] for n in range(60)})
    run = compare("biasmf", DATA, wrong, fusion="auto", controls=False, kinds=("user",), **QUICK, **longer)
    assert set(automatic(run)["augment"].values()) == {"none"}  # pyright: ignore[reportAttributeAccessIssue]
    assert "left out" in str(run.verdict)
    for protocol in ("full-shot", "zero-shot"):
        base, kept_row = (run.by_user(name, protocol, "ndcg@20") for name in ("base", "augment"))
        np.testing.assert_array_equal(base, kept_row)
    assert run.folder is not None
    saved = load_model(run.folder / "models" / "augment")
    assert saved.about.chosen == {"fusion": "none"}
    assert saved.inputs.user_profiles is None


def test_an_automatic_trial_trains_what_is_not_cached_and_says_which_part_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Inputs(60, 40, DATA.train, features(DATA))
    both = replace(
        base, user_profiles=profiles(DATA)["user"], item_profiles=profiles(DATA)["item"], fusion="auto"
    )
    train = TrainConfig(epochs=2, batch_size=64)
    plan = Plan(backbone="biasmf", model={"dim": 4}, train=train)
    cache = TrialCache(tmp_path / "cells", weights=True)
    plain, auto = (Trial(plan, 0, DATA, Features(inputs)) for inputs in (base, both))
    epochs: list[int] = []
    (of_base,) = run_trials([plain], cache, progress=False)
    from reclm.backbones.bprmf import BPRMF

    built, begin = [], BPRMF.__init__
    monkeypatch.setattr(
        BPRMF, "__init__", lambda self, *given: (built.append(given[1].fusion), begin(self, *given))[1]
    )
    (record,) = run_trials([auto], cache, progress=False)
    assert built == ["residual"], "the plain one is the base's"
    assert record.error is None
    first = record.chosen[KEPT + "full-shot"]
    own = parts(auto, auto.features)[first]  # pyright: ignore[reportArgumentType]
    kept = cache.get(own.key)
    assert kept is not None
    assert record.means["full-shot"] == kept.means["full-shot"]
    assert cache.weights_of(auto.key).is_file()
    assert epochs == []
    assert of_base.means.keys() == record.means.keys()

    def broken(self: Any, config: Any, inputs: Inputs, generator: Any) -> None:
        raise BadInput("no luck")

    monkeypatch.setattr(BPRMF, "__init__", broken)
    (failed,) = run_trials([auto], TrialCache(tmp_path / "others"), progress=False)
    assert failed.error == "fusion none: no luck"


def test_a_fusion_that_cannot_be_is_said_before_anything_is_trained() -> None:
    store = told()
    with pytest.raises(NotFound) as unknown:
        compare("biasmf", BLAND, store, fusion="residul", **QUICK, **SMALL)  # pyright: ignore[reportArgumentType]
    assert (unknown.value.value, unknown.value.remedy) == ("residul", "residual")
    with pytest.raises(ReclmError) as in_file:
        Suite.build(
            {
                "title": "x",
                "dataset": "x",
                "rows": [{"name": "a", "backbone": "biasmf", "profiles": {"fusion": "residul"}}],
            }
        )
    assert "\n" not in str(in_file.value)
    ids: dict[str, Any] = SMALL | {"items": "id"}
    with pytest.raises(BadInput) as no_text:
        compare("biasmf", BLAND, store, fusion="text", **QUICK, **ids)
    with pytest.raises(BadInput) as on_test:
        compare("biasmf", BLAND, store, fusion="auto", select_on="test", **QUICK, **SMALL)
    for error, value in ((no_text, "text"), (on_test, "auto")):
        assert (error.value.value, error.value.where) == (value, "fusion")


def test_a_row_that_ranks_by_profiles_themselves_has_no_fusion() -> None:
    options = ProfileOptions(fusion="residual")
    suite = comparison(["biasmf", "similarity"], {}, BLAND, options)
    fusions = {row.name: row.profiles.fusion for row in suite.rows if row.profiles}
    assert fusions == {"biasmf augment": "residual", "similarity augment": "dual-mlp"}
    assert row_plan(suite, suite.rows[-1], True).backbone == "similarity"
