"""Recipes: options of backbones and of their training that go together."""

from typing import Any, Literal

from pydantic import Field

from reclm.config import Config
from reclm.recommend.base import Backbone
from reclm.recommend.training import TrainConfig

RecipeName = Literal["default", "paper"]


class Recipe(Config):
    """Options of the backbones, and of the training, that have them."""

    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    by_backbone: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options in place of these, of the backbones named."""


_GRAPH = {"lr": 3e-3}
RECIPES: dict[RecipeName, Recipe] = {
    # each backbone as its paper has it: the defaults of its options
    "paper": Recipe(),
    # chosen on validation, see docs/results/recipe.md
    "default": Recipe(
        model={
            "items": "id+text",
            "dim": 64,
            "loss": "softmax",
            "unit": True,
            "score_temperature": 0.15,
            "softmax_items": 4_000,
            "l2": 0.0,
            "layers": 1,
            "text_layers": 1,
            "text_dropout": 0.2,
            "id_dropout": 0.3,
            "as_new": 0.3,
        },
        train={
            "epochs": 60,
            "patience": 8,
            "batch_size": 1024,
            "lr": 2e-3,
            "weight_decay": 0.1,
            "cold_validation": 0.1,
        },
        by_backbone={
            "lightgcn": _GRAPH,
            "sgl": _GRAPH | {"ssl": 0.1},
            "simgcl": _GRAPH | {"ssl": 0.1, "layers": 2},
            "ncf": {"unit": False, "score_temperature": 1.0},
        },
    ),
}


def recipe_options(
    recipe: RecipeName, name: str, backbone: type[Backbone], has_text: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a backbone, called ``name``, and of its training; items without text are known by ID.

    A backbone that is not trained has none but how it validates.
    """
    values = RECIPES[recipe].model | RECIPES[recipe].train | RECIPES[recipe].by_backbone.get(name, {})
    if not backbone.trains:
        return {}, {key: values[key] for key in ("cold_validation",) if key in values}
    if not has_text and values.get("items") == "id+text":
        values["items"] = "id"
    parts = (backbone.Config.model_fields, TrainConfig.model_fields)
    model, train = ({key: values[key] for key in values if key in part} for part in parts)
    return model, train
