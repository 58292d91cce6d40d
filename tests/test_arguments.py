"""Arguments of the face that cannot be used are one line: the value, the argument, and the remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reclm
from reclm.config import Config
from reclm.data.splits import Seed
from reclm.errors import BadInput, NotFound
from reclm.fusion.augment import Augmented
from reclm.profiles.tune import tuning_settings
from reclm.recommend.metrics import check_metrics
from reclm.testing import checkerboard, profiles

DATA = checkerboard()


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(DATA.n_users, 4)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"jobs": 0}, "jobs"),
        ({"jobs": 1.5}, "jobs"),
        ({"seeds": 0}, "seeds"),
        ({"search": -1}, "search"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": ("reviews",)}, "kinds"),
        ({"out": 5}, "out"),
        ({"profiles": 3}, "profiles"),
        ({"profiles": {"mine": None}}, "profiles"),
        ({"backbone": None}, "backbone"),
        ({"backbone": [None]}, "backbone"),
    ],
)
def test_compare_refuses_what_it_cannot_do(options: dict[str, Any], where: str) -> None:
    backbone = options.pop("backbone", "biasmf")
    with pytest.raises(BadInput) as error:
        reclm.compare(backbone, DATA, options.pop("profiles", None), **options)
    assert error.value.where == where


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70, 1.5, "one", None])
def test_a_seed_is_a_whole_number_that_generators_take(seed: Any) -> None:
    for function in (lambda: reclm.fit("biasmf", DATA, seed=seed), lambda: Seeded.build({"seed": seed})):
        with pytest.raises(BadInput) as error:
            function()
        assert (error.value.where, error.value.value) == ("seed", seed)


def test_the_largest_seed_trains() -> None:
    assert reclm.fit("popularity", DATA, seed=2**63 - 1).about.seed == 2**63 - 1


class Seeded(Config):
    seed: Seed = 0


@pytest.mark.parametrize("metrics", [[], (), None, "ndcg@20", 20])
def test_metrics_are_a_list_of_one_or_more(metrics: Any) -> None:
    with pytest.raises(BadInput) as error:
        check_metrics(metrics)
    assert error.value.value == metrics
    assert error.value.where == "metrics"
    assert error.value.remedy


@pytest.mark.parametrize("metric", [20, "ndcg", "ndcg@0", "ndcg@²", f"ndcg@{10**20}"])
def test_a_metric_has_a_name_and_a_length(metric: Any) -> None:
    with pytest.raises(NotFound) as error:
        check_metrics([metric])
    assert error.value.value == str(metric)


@pytest.mark.parametrize("model", [None, "user_embedding", {"user_embedding": 1}, Mine, reclm])
def test_only_a_model_is_augmented(model: Any) -> None:
    for function in (lambda: reclm.augment(model, profiles(DATA)), lambda: Augmented(model)):
        with pytest.raises(BadInput) as error:
            function()
        assert (error.value.where, error.value.value) == ("model", model)
        assert error.value.remedy


@pytest.mark.parametrize("value", [None, "folder", [1], DATA, {"user": np.zeros((24, 4))}])
def test_a_model_is_augmented_with_profiles_alone(value: Any) -> None:
    model = Mine()
    before = model.user_embedding.weight.detach().clone()
    with pytest.raises(BadInput) as error:
        reclm.augment(model, value)
    assert "profiles" in error.value.where
    assert torch.equal(model.user_embedding.weight, before)


@pytest.mark.parametrize("dropout", [1, -0.1, "0.1", None])
def test_dropout_is_a_share(dropout: Any) -> None:
    with pytest.raises(BadInput) as error:
        reclm.augment(Mine(), profiles(DATA), dropout=dropout)
    assert (error.value.where, error.value.value) == ("dropout", dropout)


@pytest.mark.parametrize("place", [None, 5, b"x", "", "a\0b", ["x"]])
def test_a_path_is_a_path(place: Any) -> None:
    functions = (reclm.load_dataset, reclm.load_model, reclm.Profiles.open, reclm.Result.load, DATA.save)
    for function in functions:
        with pytest.raises(BadInput) as error:
            function(place)
        assert error.value.value == place


def test_the_code_that_a_file_of_tuning_options_names_runs_by_consent(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("backbone: theirs:Model\n", encoding="utf-8")
    with pytest.raises(BadInput) as error:
        tuning_settings("langptune", file)
    assert error.value.remedy == "--trust"
    assert tuning_settings("langptune", file, trust=True) == {"backbone": "theirs:Model"}
