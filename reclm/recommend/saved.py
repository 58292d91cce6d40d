"""Trained models on disk: safetensors and YAML, never pickle.

Item text features and profile vectors lie beside the weights: a model gives the same scores after its profile store has
changed. The data set is found by folder or name, and checked by fingerprint.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import nn

from reclm import plugins
from reclm.config import Config
from reclm.data.catalog import load_dataset
from reclm.data.dataset import Dataset, Interactions
from reclm.data.storage import is_dataset
from reclm.data.storage import save as save_dataset
from reclm.errors import BadInput, Damaged, NotFound
from reclm.files import atomic_folder, check_files, write_checksums
from reclm.folders import Workspace, check_folder, current, has_file, to_path
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Backbone, Fusion, Inputs

if TYPE_CHECKING:
    from reclm.recommend.recommender import Recommender

HEAD, WEIGHTS, INPUTS, DATASET = "model.yaml", "model.safetensors", "inputs.safetensors", "dataset"
FORMAT = 1


class SavedModel(Config):
    """The description of a trained model, ``model.yaml``."""

    format: int = FORMAT
    """Version of the files; raised when older ones can no longer be read."""
    backbone: str
    config: dict[str, Any]
    """Options, defaults included."""
    variant: str
    """``base``, or ``augment`` with profiles."""
    fusion: Fusion = "dual-mlp"
    """How the profiles enter. With ``text`` the inputs hold the features of the joined texts."""
    chosen: dict[str, Any] = Field(default_factory=dict)
    """Options that were chosen on validation: the fusion, where it was ``auto``."""
    seed: int
    dataset: str
    dataset_folder: str | None = None
    """Folder of the data set; if it is gone, the workspace is searched for the name."""
    fingerprint: str
    """Fingerprint of the data set."""
    trained_on: tuple[Literal["train", "valid"], ...] = ("train",)
    encoder: str = ""
    """Name of the text encoder; equal names mean equal vectors. Empty: no text was read."""
    encoder_source: str | None = None
    """Name or directory that loads the encoder."""
    profiles: dict[str, Any] | None = None
    """Writer and store of the profiles, for the record."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Machine and versions."""

    @property
    def digest(self) -> str:
        """Hash of the settings that decide what the model computes; places and the record are left out."""
        settings = {"backbone", "config", "fingerprint", "trained_on", "encoder"}
        settings |= {"fusion"} if self.fusion != "dual-mlp" else set()  # models of 0.2 have none
        text = json.dumps(self.model_dump(mode="json", include=settings), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_model(
    folder: Path, about: SavedModel, model: nn.Module, inputs: Inputs, dataset: Dataset | None = None
) -> None:
    """Write weights, inputs and ``model.yaml`` to ``folder``: as a whole or, if the process is killed, not at all.

    A model that is already there is replaced; BadInput for a folder of something else. Of the inputs ``train`` is not
    written: the data set has it, which is saved with the model if it lies nowhere else.
    """
    tensors = {} if inputs.item_text is None else {"item_text": np.asarray(inputs.item_text, np.float32)}
    for kind, side in (("user", inputs.user_profiles), ("item", inputs.item_profiles)):
        if side is not None:  # rows without a profile are never read
            tensors[f"{kind}_profiles"] = side.vectors[side.present].astype(np.float32)
            tensors[f"{kind}_present"] = side.present
    check_folder(folder, HEAD, "a model", "folder")
    with atomic_folder(folder) as scratch:
        arrays = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        save_file(arrays, scratch / INPUTS, metadata={"settings": about.digest})
        save_weights(model, str(scratch / WEIGHTS))
        if dataset is not None:
            save_dataset(dataset, scratch / DATASET)
        about.to_yaml(scratch / HEAD)
        write_checksums(scratch, (WEIGHTS, INPUTS))


def build_model(about: SavedModel, inputs: Inputs, dataset: Dataset) -> Backbone:
    """Return an untrained model to load the weights into; ``train`` of the inputs is set here."""
    backbone = plugins.get("backbone", about.backbone)
    config = backbone.Config.build(about.config, where=f"backbone {about.backbone}")
    inputs = replace(inputs, train=dataset.joined(about.trained_on))
    return backbone(config, inputs, torch.Generator().manual_seed(0))


def load_model(
    folder: str | Path, workspace: Workspace | None = None, *, trust: bool = False
) -> "Recommender":
    """Load the model that :meth:`Recommender.save <reclm.recommend.recommender.Recommender.save>` wrote to ``folder``.

    Its data set is the one saved with the model, or else the one at the place that it was trained on, or of that name
    in ``workspace``, by default the one in use. A backbone ``module:Class`` runs its code: one that was not asked for
    by name in this process needs ``trust``.

    Raises:
        NotFound: if there is no model, or its data set is gone.
        Damaged: if a file is missing or cut, or of another format.
        BadInput: if the data set is another by now.
    """
    from reclm.recommend.recommender import Recommender

    folder = to_path(folder, "folder")
    if not has_file(folder, HEAD):
        raise NotFound(f"no trained model in {folder}: it has no {HEAD}", value=str(folder))
    check_files(folder, "model", "train it again")
    about = SavedModel.from_yaml(folder / HEAD)
    if about.format != FORMAT:
        message = f"{folder / HEAD} has format {about.format}, this reclm reads {FORMAT}; fit the model again"
        raise Damaged(message, value=about.format, where=str(folder / HEAD))
    if not trust:
        plugins.check_trusted({"backbone": about.backbone}, folder / HEAD)
    dataset = _dataset(about, folder, workspace or current())
    sizes = len(dataset.users), len(dataset.items)
    try:
        tensors = load_file(folder / INPUTS)
        sides = _profiles(tensors, "user"), _profiles(tensors, "item")
        arrays = tensors.get("item_text"), *sides
        inputs = Inputs(*sizes, Interactions.empty(), *arrays, fusion=about.fusion)
        model = build_model(about, inputs, dataset)
        load_weights(model, folder / WEIGHTS)
        with safe_open(folder / INPUTS, "numpy") as file:
            written = (file.metadata() or {}).get("settings", about.digest)  # a model of 0.1 has none
        if written != about.digest:
            raise ValueError(f"{HEAD} holds other settings than the model was saved with")
    except (OSError, SafetensorError, LookupError, ValueError, RuntimeError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise Damaged(f"{folder} is a damaged model: {cause}; train it again", where=str(folder)) from error
    return Recommender(about, model.eval(), dataset, inputs)


def find_model(run: Path | None = None) -> Path:
    """Return the folder of a model: ``run``, or of a run's models the augmented one, or the plain one without it.

    By default it is the workspace's newest run. NotFound if there is none.
    """
    workspace = current()
    if run is not None:
        folder = run if (run / HEAD).is_file() else _of_run(run)
        if folder is None:
            message = f"no trained model in {run}; name a run of `reclm bench`, such as {workspace.runs()}/…"
            raise NotFound(message, value=str(run))
        return folder
    heads = sorted(workspace.runs().glob(f"*/models/*/{HEAD}"), key=lambda head: head.stat().st_mtime_ns)
    if not heads:
        remedy = "reclm bench --backbone lightgcn --augment"
        message = f"no trained model in {workspace.root}; train one: {remedy}"
        raise NotFound(message, value=str(workspace.root), remedy=remedy)
    return _of_run(heads[-1].parents[2]) or heads[-1].parent


def _of_run(run: Path) -> Path | None:
    models = {head.parent.name: head.parent for head in sorted((run / "models").glob(f"*/{HEAD}"))}
    return models.get("augment") or next(iter(models.values()), None)


def _dataset(about: SavedModel, folder: Path, workspace: Workspace) -> Dataset:
    elsewhere = [Path(about.dataset_folder)] if about.dataset_folder else []
    places = [folder / DATASET, *elsewhere, workspace.dataset(about.dataset)]
    dataset = load_dataset(next((place for place in places if is_dataset(place)), about.dataset))
    if dataset.fingerprint != about.fingerprint:
        raise BadInput(
            f"{folder} was trained on another data set {about.dataset!r}: its fingerprint is {about.fingerprint}, that "
            f"of today's is {dataset.fingerprint}; train again: reclm bench --dataset {about.dataset}",
            value=dataset.fingerprint,
            where=str(folder),
        )
    return dataset


def _profiles(tensors: dict[str, np.ndarray], kind: str) -> ProfileMatrix | None:
    if f"{kind}_profiles" not in tensors:
        return None
    stored, present = tensors[f"{kind}_profiles"], tensors[f"{kind}_present"]
    vectors = np.zeros((len(present), stored.shape[1]), np.float32)
    vectors[present] = stored
    return ProfileMatrix(vectors, present)
