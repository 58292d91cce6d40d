"""``reclm bench --backbone X --augment``: a suite of a backbone with and without profiles, and its trained models."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from reclm import plugins
from reclm.benchmarks.runner import SelectOn, validation_task
from reclm.benchmarks.suite import Profiles, Row, Suite
from reclm.benchmarks.suite_run import SuiteRun
from reclm.data.dataset import Dataset
from reclm.environment import environment
from reclm.errors import unknown
from reclm.serving.saved import SavedModel, build_model, save_model
from reclm.training import TrainConfig


def comparison(
    backbone: str,
    settings: dict[str, Any],
    dataset: Dataset,
    profiles: Profiles | None = None,
    *,
    place: str | None = None,
    seeds: int = 1,
    epochs: int | None = None,
    select_on: SelectOn = "valid",
    encoder: str | None = None,
) -> Suite:
    """The suite of a backbone plain (``base``) and, where there are profiles, with them (``augment``).

    A backbone that ranks by profiles alone has no ``base``.

    Args:
        settings: options of the backbone and of the training, by name.
        place: name or folder of the data set, if not its own name.
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
    most = TrainConfig.build(train, where="training").epochs
    if select_on == "test":
        train = {"metric": "recall@20", "patience": max(most, 1), **train}
    else:
        validation_task(dataset)
    needed = getattr(plugins.get("backbone", backbone), "needs_profiles", None)
    rows = [] if needed and profiles else [Row(name="base", backbone=backbone)]
    if profiles is not None:
        if needed in profiles.kinds:
            profiles = profiles.model_copy(update={"kinds": (needed,)})
        rows.append(Row(name="augment", backbone=backbone, profiles=profiles))
    return Suite(
        title=f"{backbone} on {dataset.name}",
        dataset=place or dataset.name,
        seeds=seeds,
        select_on=select_on,
        encoder=encoder,
        model=model,
        train=train,
        rows=tuple(rows),
    )


def keep_models(run: SuiteRun, folder: Path, dataset_folder: Path | None = None) -> None:
    """Write the last seed's model of every row that ran to ``folder/ROW``, for ``reclm recommend``.

    Args:
        run: of :func:`~reclm.benchmarks.suite_run.run_suite` with ``weights=True``.
        dataset_folder: where the data set is, for the models' record.
    """
    for name, cells in run.cells.items():
        cell, given = cells[-1], run.given[name]
        if run.results[name][-1].error is not None:
            continue
        config = plugins.get("backbone", cell.plan.backbone).Config.build(dict(cell.plan.model))
        encoder, source = given.encoder or ("", None)
        saved = SavedModel(
            backbone=cell.plan.backbone,
            config=config.model_dump(mode="json"),
            variant=name,
            seed=cell.seed,
            dataset=run.dataset.name,
            dataset_folder=dataset_folder and str(dataset_folder.resolve()),
            fingerprint=run.dataset.fingerprint,
            trained_on=("train", "valid") if cell.plan.select_on == "test" else ("train",),
            encoder=encoder,
            encoder_source=source,
            profiles={"writer": given.store.info.writer, "store": str(given.store.folder)}
            if given.store
            else None,
            environment=environment(),
        )
        model = build_model(saved, given.inputs, run.dataset)
        model.load_state_dict(load_file(run.store.weights_of(cell.key)))
        save_model(folder / name, saved, model, given.inputs)
