"""Trained backbones on disk: safetensors and YAML, never pickle.

What scoring needs and the data set does not hold (item text features, profile vectors) lies beside the weights: a model
gives the same scores after its profile store has changed. The data set is found by folder, checked by fingerprint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import Tensor, nn

import reclm.data
from reclm import plugins
from reclm.config import Config
from reclm.data.dataset import Dataset, Interactions
from reclm.data.storage import is_dataset
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Backbone, Inputs
from reclm.text.encoder import TextEncoder

HEAD, WEIGHTS, INPUTS = "model.yaml", "model.safetensors", "inputs.safetensors"
FORMAT = 1


class SavedModel(Config):
    """What ``model.yaml`` says of a trained backbone."""

    format: int = FORMAT
    """Of the folder; raised when older files can no longer be read."""
    backbone: str
    """The plug-in."""
    config: dict[str, Any]
    """Its options, defaults included."""
    variant: str
    """``base``, or ``augment`` with profiles."""
    seed: int
    """Of its training."""
    dataset: str
    """Name of the data set."""
    dataset_folder: str | None = None
    """Where it was; if it is gone, the workspace is asked for the name."""
    fingerprint: str
    """Of the data set."""
    trained_on: tuple[Literal["train", "valid"], ...] = ("train",)
    """The splits."""
    encoder: str
    """Name of the text encoder; equal names mean equal vectors."""
    encoder_source: str | None = None
    """What loads the encoder again: a name or a directory."""
    profiles: dict[str, Any] | None = None
    """Writer and store of the profiles, for the record."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Machine and versions."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained backbone, ready to score.

    Attributes:
        about: what is known of it.
        model: in evaluation mode.
        dataset: the one it was trained on.
    """

    about: SavedModel
    model: nn.Module
    dataset: Dataset

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder of the training.

        Raises:
            ReclmError: if it is gone, or is another by now.
        """
        encoder = TextEncoder(self.about.encoder_source)
        if encoder.name != self.about.encoder:
            raise ReclmError(
                f"the model reads texts as encoder {self.about.encoder!r} writes them, and "
                f"{self.about.encoder_source} is now {encoder.name!r}; bring the encoder back, or train again"
            )
        return encoder

    @cached_property
    @torch.no_grad()
    def final(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(U, d')`` and ``(I, d')``; computed once."""
        assert isinstance(self.model, Backbone)
        return self.model.represent(self.model.user_features(), self.model.item_features())


def save_model(folder: Path, about: SavedModel, model: nn.Module, inputs: Inputs) -> None:
    """Write a model to ``folder``: weights, inputs and, last, ``model.yaml``, without which it is none.

    Args:
        inputs: what it was built from; its ``train`` is not written, the data set has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEAD).unlink(missing_ok=True)
    tensors = {} if inputs.item_text is None else {"item_text": np.asarray(inputs.item_text, np.float32)}
    for kind, side in (("user", inputs.user_profiles), ("item", inputs.item_profiles)):
        if side is not None:  # rows without a profile are never read
            tensors[f"{kind}_profiles"] = side.vectors[side.present].astype(np.float32)
            tensors[f"{kind}_present"] = side.present
    save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, folder / INPUTS)
    save_weights(model, str(folder / WEIGHTS))
    about.to_yaml(folder / HEAD)


def build_model(about: SavedModel, inputs: Inputs, dataset: Dataset) -> nn.Module:
    """The untrained model that weights go into; ``train`` of the inputs is set here."""
    backbone = plugins.get("backbone", about.backbone)
    config = backbone.Config.build(about.config, where=f"backbone {about.backbone}")
    inputs = replace(inputs, train=dataset.joined(about.trained_on))
    return backbone(config, inputs, torch.Generator().manual_seed(0))


def load_model(folder: Path, workspace: Workspace) -> Trained:
    """The model that :func:`save_model` wrote to ``folder``, with its data set.

    Raises:
        ReclmError: if it is missing, damaged or of another format, or its data set is gone or another by now.
    """
    about = SavedModel.from_yaml(folder / HEAD)
    if about.format != FORMAT:
        raise ReclmError(f"{folder / HEAD} has format {about.format}, this version of reclm reads {FORMAT}")
    dataset = _dataset(about, folder, workspace)
    with _damage(folder):
        tensors = load_file(folder / INPUTS)
        inputs = Inputs(
            len(dataset.users),
            len(dataset.items),
            Interactions.empty(),
            tensors.get("item_text"),
            _profiles(tensors, "user"),
            _profiles(tensors, "item"),
        )
        model = build_model(about, inputs, dataset)
        load_weights(model, folder / WEIGHTS)
    return Trained(about, model.eval(), dataset)


def find_model(run: Path | None, workspace: Workspace) -> Path:
    """The folder of a model.

    Args:
        run: a model's folder, or that of a run: its augmented model is taken, or the plain one if there is no other.
            By default the workspace's newest run.

    Raises:
        ReclmError: if there is none.
    """
    if run is not None:
        found = run if (run / HEAD).is_file() else _of_run(run)
        if found is None:
            raise ReclmError(
                f"no trained model in {run}; name a run of `reclm bench`, such as {workspace.runs()}/…"
            )
        return found
    heads = sorted(workspace.runs().glob(f"*/models/*/{HEAD}"), key=lambda one: one.stat().st_mtime_ns)
    if not heads:
        raise ReclmError(
            f"no trained model in {workspace.root}; train one: reclm bench --backbone lightgcn --augment"
        )
    return _of_run(heads[-1].parents[2]) or heads[-1].parent


def _of_run(run: Path) -> Path | None:
    there = {head.parent.name: head.parent for head in sorted((run / "models").glob(f"*/{HEAD}"))}
    return there.get("augment") or next(iter(there.values()), None)


def _dataset(about: SavedModel, folder: Path, workspace: Workspace) -> Dataset:
    place = about.dataset_folder
    dataset = reclm.data.load(place if place and is_dataset(Path(place)) else about.dataset, workspace)
    if dataset.fingerprint != about.fingerprint:
        raise ReclmError(
            f"{folder} was trained on another data set {about.dataset!r}: its fingerprint is {about.fingerprint}, that "
            f"of today's is {dataset.fingerprint}; train again: reclm bench --dataset {about.dataset}"
        )
    return dataset


def _profiles(tensors: dict[str, np.ndarray], kind: str) -> ProfileMatrix | None:
    if f"{kind}_profiles" not in tensors:
        return None
    kept, present = tensors[f"{kind}_profiles"], tensors[f"{kind}_present"]
    vectors = np.zeros((len(present), kept.shape[1]), np.float32)
    vectors[present] = kept
    return ProfileMatrix(vectors, present)


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Files that are missing, cut or of another model, as an error of one line."""
    try:
        yield
    except (OSError, SafetensorError, LookupError, ValueError, RuntimeError) as error:
        what = " ".join(str(error).split())[:200]
        raise ReclmError(f"{folder} is a damaged model: {what}; train it again") from error
