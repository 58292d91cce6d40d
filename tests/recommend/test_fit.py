"""Fit, recommend, evaluate, save and load, as users call them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from reclm.benchmarks.experiment import compare
from reclm.data.dataset import Dataset, Interactions
from reclm.data.storage import save
from reclm.errors import BadInput, NotFound
from reclm.folders import Workspace
from reclm.profiles.profiles import Profiles, TextProfiles
from reclm.profiles.write import write_profiles
from reclm.recommend.fit import fit
from reclm.recommend.recommender import Recommender
from reclm.recommend.saved import HEAD, load_model

from .conftest import DATA, Parity


@pytest.fixture
def written(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Profiles:
    """Profiles that tell the parity of half of the users, and of all items."""
    monkeypatch.setenv("RECLM_HOME", str(workspace.root))
    frames = [
        pd.DataFrame(
            {
                "id": [f"{kind}{n}" for n in range(count)],
                "text": [f"likes {('even', 'odd')[n % 2]}" for n in range(count)],
            }
        )
        for kind, count in (("u", 12), ("i", 20))
    ]
    return Profiles.from_frames(DATA, *frames, encoder=Parity())  # pyright: ignore[reportArgumentType]


def fitted(backbone: str, profiles: Any = None, **options: Any) -> Recommender:
    return fit(backbone, DATA, profiles, **{"progress": False, "epochs": 3, "dim": 4, "lr": 0.05} | options)


def test_options_of_backbone_and_training_go_by_name(written: Profiles) -> None:
    model = fitted("lightgcn", layers=3)
    assert (model.model.config.dim, model.model.config.layers, len(model.history)) == (4, 3, 3)  # pyright: ignore
    with pytest.raises(NotFound) as error:
        fitted("lightgcn", layer=3)
    assert (error.value.value, error.value.remedy) == ("layer", "layers")
    with pytest.raises(BadInput):
        fitted("lightgcn", layers=0)


def test_the_seed_decides(written: Profiles) -> None:
    first, again, other = (
        fitted("biasmf", written, seed=seed).recommend(k=20, users="u0") for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert first["score"].tolist() != other["score"].tolist()


def test_recommend_takes_ids_as_they_come_and_returns_a_frame(written: Profiles) -> None:
    model = fitted("biasmf", written)
    frame = model.recommend(np.array(["u3", "u1"]), k=2)
    assert list(frame.columns) == ["user", "rank", "item", "title", "score"]
    assert frame["user"].tolist() == ["u3", "u3", "u1", "u1"]
    assert frame["rank"].tolist() == [1, 2, 1, 2]
    alone = model.recommend("u1", k=2)
    assert alone["item"].tolist() == frame["item"].tolist()[2:]
    new = pd.DataFrame({"item_id": ["n1"], "title": ["even calm"]})
    both = model.recommend(["u1", "u2"], new_items=new, k=99)
    assert both[both["new"]]["item"].tolist() == ["n1", "n1"]


def test_evaluate_keeps_every_users_values(written: Profiles) -> None:
    model = fitted("biasmf", written)
    result = model.evaluate()
    assert list(result.table().columns) == ["users", "NDCG@20", "Recall@20"]
    assert list(result.table().index) == ["full-shot", "zero-shot"]
    users = result.per_user()
    means = users.groupby("protocol")["NDCG@20"].mean()
    assert means["full-shot"] == pytest.approx(result.table().loc["full-shot", "NDCG@20"])  # pyright: ignore[reportArgumentType, reportCallIssue, reportGeneralTypeIssues, reportIndexIssue]
    assert list(model.evaluate(metrics=["Recall@5"]).table(["recall@5"]).columns) == ["users", "Recall@5"]
    for metric in ("ndgc@20",):
        with pytest.raises(NotFound):
            model.evaluate(metrics=[metric])
    other = replace(DATA, test=DATA.test.take(DATA.test.user_idx < 3))
    assert set(model.evaluate(other).per_user()["user"]) == {"u0", "u1", "u2"}
    with pytest.raises(NotFound):
        result.table(["map@20"])


def test_without_a_validation_part_all_epochs_are_trained(written: Profiles) -> None:
    data = replace(DATA, valid=Interactions.empty(), name="novalid")
    assert len(fit("biasmf", data, epochs=14, patience=2, progress=False).history) == 14


def test_a_saved_model_comes_back_with_a_data_set_that_lies_nowhere(
    written: Profiles, tmp_path: Path
) -> None:
    model = fitted("lightgcn", written)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.recommend("u5"), model.recommend("u5"))
    torch.testing.assert_close(loaded.representations, model.representations)
    assert (tmp_path / "model" / "dataset").is_dir()
    assert "lightgcn" in repr(loaded)
    assert "lightgcn" in loaded._repr_html_()
    model.save(tmp_path / "model")  # over itself
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(BadInput):
        model.save(tmp_path / "other")
    with pytest.raises(NotFound):
        load_model(tmp_path / "other")
    save(DATA, tmp_path / "data")
    fit("biasmf", replace(DATA, folder=tmp_path / "data"), epochs=1, progress=False).save(tmp_path / "lean")
    assert not (tmp_path / "lean" / "dataset").exists()
    assert load_model(tmp_path / "lean").data.folder == tmp_path / "data"


def test_a_write_that_fails_leaves_the_model_before(
    written: Profiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted("biasmf")
    model.save(tmp_path / "model")
    monkeypatch.setattr(
        "reclm.recommend.saved.save_weights", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == ["model"]
    assert (tmp_path / "model" / HEAD).is_file()
    load_model(tmp_path / "model")


def test_what_is_missing_is_said(written: Profiles) -> None:
    with pytest.raises(NotFound) as error:
        fit("similarity", DATA, progress=False)
    assert error.value.value == "user"
    with pytest.raises(BadInput):
        fit(
            "biasmf",
            replace(DATA, name="another", train=DATA.train.take(np.arange(40))),
            written,  # pyright: ignore[reportArgumentType]
            progress=False,
        )
    with pytest.raises(NotFound) as error:
        fit("biasmf", replace(DATA, item_text=DATA.item_text.select([])), progress=False, items="text")
    assert error.value.where == "item_text"


@pytest.mark.parametrize("blank", [True, False])
def test_fault_1_models_of_text_need_one(workspace: Workspace, blank: bool) -> None:
    """Every feature would be 0, and the order of the rows would decide."""
    fields = pa.table({"title": [" "] * len(DATA.items)})
    data = replace(DATA, item_text=fields if blank else fields.select([]))
    for backbone in ("lightgcn", "biasmf", "ncf", "sgl", "simgcl"):
        with pytest.raises(NotFound) as error:
            fit(backbone, data, progress=False, epochs=1, items="id+text")
        assert (error.value.where, error.value.remedy) == ("item_text", "--set items=id")
    model = fit("biasmf", data, progress=False, epochs=1)
    assert model.model.config.items == "id"
    assert len(model.recommend("u1", k=3)) == 3
    values = fit("lightgcn", data, progress=False, epochs=1).evaluate().values
    assert values.keys() == {"full-shot", "zero-shot"}


def test_fault_1_profiles_of_nobody_augment_nothing(written: Profiles) -> None:
    bare = TextProfiles(DATA, {"a stranger": "likes even"}, written.encoder)
    with pytest.raises(NotFound) as error:
        fitted("biasmf", bare)
    assert error.value.where == "profiles"


def test_fault_2_a_model_whose_weights_are_no_numbers_recommends_nothing(written: Profiles) -> None:
    model = fitted("biasmf")
    with torch.no_grad():
        model.model.user_embedding[3] = torch.nan  # pyright: ignore
    for call in (lambda: model.recommend("u3"), model.evaluate):
        with pytest.raises(BadInput) as error:
            call()
        assert error.value.where == "scores"


def test_metrics_other_than_the_usual_ones_are_shown_all() -> None:
    done = fit("popularity", DATA).evaluate(metrics=["recall@5", "mrr@10"])
    assert done.table().columns.tolist() == ["users", "Recall@5", "MRR@10"]
    assert "MRR@10" in repr(done)
    assert "MRR@10" in done._repr_html_()


@pytest.mark.parametrize("data", ["ml-100k", None, pd.DataFrame()])
def test_what_is_no_data_set_is_said_to_be_none(data: Any) -> None:
    fitted = fit("popularity", DATA)
    calls = [lambda: fit("popularity", data), lambda: write_profiles(data, "keywords")]
    calls += [lambda: compare("popularity", data), lambda: Profiles.from_frames(data, {"u1": "a"})]
    for call in [*calls, *([] if data is None else [lambda: fitted.evaluate(data)])]:
        with pytest.raises(BadInput) as error:
            call()
        assert error.value.where == "data"


def test_a_data_set_without_a_test_part_measures_nothing():
    frame = pd.DataFrame({"user_id": list("aabbcc"), "item_id": list("xyyzzx")})
    data = Dataset.from_frames(frame, test=0, valid=0, held_out_items=0)
    with pytest.raises(NotFound) as error:
        fit("popularity", data).evaluate()
    assert (error.value.value, error.value.where) == ("test", data.name)
