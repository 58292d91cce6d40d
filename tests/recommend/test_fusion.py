"""The ways profiles enter a fitted model, saved and loaded, and served to newcomers."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from reclm.data.dataset import Interactions
from reclm.data.item_text import item_texts
from reclm.errors import BadInput, NotFound
from reclm.folders import Workspace
from reclm.profiles.profiles import Profiles
from reclm.recommend.auto_fusion import best_way
from reclm.recommend.fit import fit
from reclm.recommend.recommender import Recommender
from reclm.recommend.saved import load_model

from .conftest import DATA, Parity

BLAND = replace(DATA, item_text=DATA.item_text.set_column(0, "title", [["a film"] * len(DATA.items)]))
"""The same items, of which the titles tell nothing."""


class Listener(Parity):
    """Notes what it encodes."""

    heard: ClassVar[list[str]] = []

    def encode(self, texts: Any, *given: Any, **options: Any) -> np.ndarray:
        self.heard.extend(texts)
        return super().encode(texts, *given, **options)


@pytest.fixture(autouse=True)
def home(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLM_HOME", str(workspace.root))
    Listener.heard.clear()


def told(data: Any = BLAND, kinds: str = "user item", shift: int = 0) -> Profiles:
    """Profiles that tell the parity of all users and items; with ``shift = 1``, the wrong one of every other pair."""
    frames = {}
    for kind in kinds.split():
        ids = data.view().idmap(kind).ids()
        words = [("even", "odd")[(n if shift == 0 else n // 2) % 2] for n in range(len(ids))]
        frames[f"{kind}s"] = pd.DataFrame({"id": ids, "text": [f"likes {word}" for word in words]})
    return Profiles.from_frames(data, **frames, encoder=Listener())  # pyright: ignore[reportArgumentType]


def fitted(profiles: Any, fusion: str, data: Any = BLAND, **options: Any) -> Recommender:
    options = {"epochs": 4, "dim": 4, "lr": 0.05, "items": "text", "progress": False} | options
    return fit("biasmf", data, profiles, fusion=fusion, **options)  # pyright: ignore[reportArgumentType]


def test_a_residual_model_without_epochs_is_the_plain_one() -> None:
    plain, residual = fitted(None, "dual-mlp", epochs=0), fitted(told(), "residual", epochs=0)
    assert torch.equal(*(model.representations[1] for model in (plain, residual)))
    assert fitted(told(), "residual").recommend("u1", k=20)["score"].tolist() != (
        fitted(None, "dual-mlp").recommend("u1", k=20)["score"].tolist()
    )


def test_text_joins_a_profile_to_the_items_text_before_it_is_encoded() -> None:
    model = fitted(told(kinds="item"), "text")
    joined = [f"a film. likes {('even', 'odd')[n % 2]}" for n in range(len(DATA.items))]
    assert set(Listener.heard) == set(joined)  # neither text nor profile alone
    assert model.inputs.item_profiles is model.inputs.user_profiles is None
    np.testing.assert_array_equal(model.inputs.item_text, Listener().encode(joined))
    Listener.heard.clear()
    fitted(told(kinds="item"), "text")
    assert Listener.heard == []  # cached
    assert item_texts(BLAND.item_text) == ["a film"] * len(DATA.items)


def test_text_leaves_users_to_the_residual_term() -> None:
    model: Any = fitted(told(), "text")
    assert model.inputs.user_profiles is not None
    assert model.model.item_fusion is None
    assert model.model.user_fusion.mlp.gate.abs().max() > 0
    assert "text" in repr(model)


@pytest.mark.parametrize("fusion", ["dual-mlp", "residual", "text"])
def test_a_model_comes_back_with_its_fusion_and_serves_the_same_newcomers(
    fusion: str, tmp_path: Path
) -> None:
    model = fitted(told(), fusion)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.about.fusion == fusion
    arrivals = pd.DataFrame(
        {"item_id": ["n1", "n2"], "title": "a film", "profile": ["likes even", "likes odd"]}
    )
    newcomers: list[dict[str, Any]] = [{"users": "u3"}, {"history": ["i1", "i3"]}, {"profile": "likes odd"}]
    for given in newcomers:
        first, second = (one.recommend(**given, new_items=arrivals, k=30) for one in (model, loaded))
        pd.testing.assert_frame_equal(first, second)
    scores: Any = loaded.recommend("u0", new_items=arrivals, k=30).set_index("item")["score"]
    assert scores["n1"] != scores["n2"]  # by their profiles alone
    if fusion == "text":
        assert scores["n1"] == pytest.approx(scores["i18"])  # a known item of the same text and profile
        bare: Any = loaded.recommend("u0", new_items=arrivals.drop(columns="profile"), k=30).set_index(
            "item"
        )["score"]
        assert bare["n1"] == bare["n2"]


@pytest.mark.parametrize(
    ("fusion", "options", "kinds", "error", "value"),
    [
        ("residul", {}, "user item", NotFound, "residul"),
        ("text", {"items": "id"}, "user item", BadInput, "text"),
        ("text", {}, "user", BadInput, "text"),
    ],
)
def test_a_fusion_that_cannot_be_is_one_line(
    fusion: str, options: dict[str, str], kinds: str, error: type[Any], value: str
) -> None:
    with pytest.raises(error) as raised:
        fitted(told(kinds=kinds), fusion, **options)
    assert (raised.value.value, raised.value.where) == (value, "fusion")
    assert raised.value.remedy == "residual"
    assert "\n" not in str(raised.value)


def test_similarity_fuses_nothing() -> None:
    with pytest.raises(BadInput) as raised:
        fit("similarity", BLAND, told(), fusion="residual", progress=False)
    assert raised.value.where == "fusion"


def test_auto_takes_profiles_that_tell_and_leaves_out_those_that_mislead() -> None:
    telling = fitted(told(), "auto", epochs=3)
    assert telling.about.chosen["fusion"] in ("residual", "text")
    assert telling.about.variant == "augment"
    plain = fitted(None, "dual-mlp", DATA, epochs=12)
    misled = fitted(told(DATA, shift=1), "auto", DATA, epochs=12)
    assert misled.about.chosen == {"fusion": "none"}
    assert (misled.about.variant, misled.profiles) == ("base", None)
    assert misled.inputs.user_profiles is misled.inputs.item_profiles is None
    assert torch.equal(misled.representations[0], plain.representations[0])
    assert "none, chosen on validation" in repr(misled)


def test_auto_needs_validation() -> None:
    data = replace(BLAND, valid=Interactions.empty(), name="novalid")
    with pytest.raises(NotFound) as raised:
        fitted(told(data), "auto", data)
    assert (raised.value.value, raised.value.where) == ("auto", "fusion")


def test_the_plain_model_stays_within_one_standard_error() -> None:
    rng = np.random.default_rng(0)
    plain = rng.random(200)
    noise = rng.normal(0, 0.2, 200)
    error = noise.std(ddof=1) / 200**0.5
    at = {gain: plain + noise - noise.mean() + gain * error for gain in (0.9, 1.1, 1.5)}
    assert best_way({"none": plain, "residual": at[0.9]}) == "none"
    assert best_way({"none": plain, "residual": at[1.1]}) == "residual"
    assert best_way({"none": plain, "residual": at[1.1], "text": at[1.5]}) == "text"
    assert best_way({"none": plain, "residual": at[1.5], "text": at[1.1]}) == "residual"
    assert best_way({"none": plain, "residual": plain}) == "none"
    assert best_way({"none": plain[:1], "residual": plain[:1] + 1}) == "none"
