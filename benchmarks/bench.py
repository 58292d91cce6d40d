"""``reclm bench`` as a library: data, profiles and features to a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from reclm import plugins
from reclm.adapter import ProfileMatrix
from reclm.backbones.base import Inputs
from reclm.benchmarks.compare import Comparison, Plan, SelectOn, compare, validation_task
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.environment import environment
from reclm.errors import ReclmError, unknown
from reclm.profiles.embeddings import embed
from reclm.profiles.ensure import ProfilerChoice, ensure_profiles
from reclm.profiles.store import ProfileStore
from reclm.progress import progress_bar
from reclm.serving.saved import SavedModel, save_model
from reclm.text.encoder import TextEncoder, item_text_features
from reclm.training import TrainConfig
from reclm.workspace import Workspace

FIRST_LOOK = 300
"""Users, and items, that a bench writes profiles of unless told otherwise: minutes on two CPU cores, not hours."""


@dataclass(frozen=True)
class ProfileSource:
    """Where the profiles come from.

    Attributes:
        profiler: who writes them.
        limit: missing profiles are written of the first so many users, and items, 0 for all. By default of
            ``FIRST_LOOK`` with a language model and of all without one.
        kinds: the sides that are augmented.
        store: a store to take as it is: nothing is generated.
    """

    profiler: ProfilerChoice
    limit: int | None = None
    kinds: Sequence[ProfileKind] = ("user", "item")
    store: Path | None = None

    def open(self, dataset: Dataset, workspace: Workspace) -> ProfileStore:
        """The store, with everything written that was missing."""
        view = dataset.view()
        if self.store:
            writer = ProfileStore.read(self.store).info.writer
            return ProfileStore.open(self.store, view.fingerprint, writer)
        limit = self.limit
        if limit is None:
            limit = FIRST_LOOK if plugins.get("profiler", self.profiler.name).needs_model else 0
        return ensure_profiles(view, workspace, self.profiler, self.kinds, limit or None)[0]


def make_plan(
    backbone: str,
    settings: dict[str, Any],
    dataset: Dataset,
    *,
    seeds: int = 1,
    epochs: int | None = None,
    select_on: SelectOn = "valid",
) -> Plan:
    """A plan, checked against the data before anything slow begins.

    Args:
        settings: options of the backbone and of the training, by name.
        select_on: with ``"test"`` the paper's selection: all epochs run, test Recall@20 chooses.

    Raises:
        ReclmError: for an unknown backbone or option, and where there is no validation part to select on.
    """
    model_config = plugins.get("backbone", backbone).Config
    known = {*model_config.model_fields, *TrainConfig.model_fields}
    for key in settings:
        if key not in known:
            raise unknown(f"option of backbone {backbone} and its training", key, known)
    model = {key: value for key, value in settings.items() if key in model_config.model_fields}
    model_config.build(model, where=f"backbone {backbone}")
    train = {key: value for key, value in settings.items() if key in TrainConfig.model_fields}
    if epochs is not None:
        train["epochs"] = epochs
    if select_on == "test":
        train = {"metric": "recall@20", "patience": max(int(train.get("epochs", 50)), 1), **train}
    else:
        validation_task(dataset)
    config = TrainConfig.build(train, where="training")
    return Plan(backbone=backbone, model=model, train=config, seeds=seeds, select_on=select_on)


def bench(
    plan: Plan,
    dataset: Dataset,
    workspace: Workspace,
    profiles: ProfileSource | None,
    encoder: TextEncoder,
    progress: bool = True,
    models: Path | None = None,
    dataset_folder: Path | None = None,
) -> tuple[Comparison, dict[str, Any]]:
    """Train the plan's backbone plain and, where there are profiles, augmented; with profiles alone if it needs them.

    Args:
        models: folder for the last seed's model of each variant, ``models/VARIANT``
            (:func:`reclm.serving.saved.save_model`); by default none is kept.
        dataset_folder: where the data set is, for the models' record.

    Returns:
        The comparison, and what there is to say of its inputs: encoder, profile writer, and the share of users and
        items that have a profile.

    Raises:
        ReclmError: for a backbone that needs profiles, if there are none of that kind.
    """
    backbone = plugins.get("backbone", plan.backbone)
    # a backbone need not be a Backbone: the floors are none
    needed: ProfileKind | None = getattr(backbone, "needs_profiles", None)
    if needed is not None:
        if profiles is None or needed not in profiles.kinds:
            raise ReclmError(
                f"backbone {plan.backbone!r} ranks by {needed} profiles, and there are none; "
                f"add --augment --kind {needed}"
            )
        profiles = replace(profiles, kinds=(needed,))
    about: dict[str, Any] = {"encoder": encoder.name}
    matrices: dict[str, ProfileMatrix] = {}
    if profiles is not None:
        store = profiles.open(dataset, workspace)
        for kind in profiles.kinds:
            matrices[kind] = ProfileMatrix(*embed(store, encoder, kind, dataset.view().idmap(kind), progress))
        about["profiles"] = {"writer": store.info.writer, "store": str(store.folder)}
        about["coverage"] = {
            kind: {"with profile": int(one.present.sum()), "of": len(one)} for kind, one in matrices.items()
        }
    config = backbone.Config.build(dict(plan.model))
    text = None
    if config.items != "id":
        text = item_text_features(dataset.view(), encoder, workspace, progress)
    base = Inputs(len(dataset.users), len(dataset.items), Interactions.empty(), text)
    variants = {"base": base} if needed is None else {}
    if matrices:
        variants["augment"] = Inputs(
            base.users, base.items, base.train, text, matrices.get("user"), matrices.get("item")
        )

    def keep(variant: str, seed: int, model: nn.Module) -> None:
        if models is None or seed + 1 < plan.seeds:
            return
        saved = SavedModel(
            backbone=plan.backbone,
            config=config.model_dump(mode="json"),
            variant=variant,
            seed=seed,
            dataset=dataset.name,
            dataset_folder=dataset_folder and str(dataset_folder.resolve()),
            fingerprint=dataset.fingerprint,
            trained_on=("train", "valid") if plan.select_on == "test" else ("train",),
            encoder=encoder.name,
            encoder_source=encoder.source,
            profiles=about["profiles"] if variant == "augment" else None,
            environment=environment(),
        )
        save_model(models / variant, saved, model, variants[variant])

    total = plan.seeds * len(variants) * plan.train.epochs
    with progress_bar(f"training {plan.backbone}, epochs", total, progress) as advance:
        comparison = compare(plan, dataset, variants, lambda variant, seed, row: advance(1), keep)
    return comparison, about
