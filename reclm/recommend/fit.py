"""Fit a backbone to a data set, with profiles or without."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reclm import plugins
from reclm.config import Config
from reclm.console import progress_bar
from reclm.data.dataset import Dataset, ProfileKind, check_dataset
from reclm.errors import BadInput, NotFound, check_seed, check_type, unknown
from reclm.plugins import environment
from reclm.profiles.matrix import ProfileMatrix, item_text_features, joined_cache, joined_features
from reclm.profiles.profiles import HOW, Profiles, TextProfiles
from reclm.recommend.auto_fusion import train_auto, ways
from reclm.recommend.base import Backbone, Fusion, Inputs, check_fusion, joins_text
from reclm.recommend.evaluate import Task, validation_task
from reclm.recommend.recipes import RecipeName, recipe_options
from reclm.recommend.recommender import Recommender
from reclm.recommend.saved import SavedModel
from reclm.recommend.training import TrainConfig, TripleSampler, train_backbone
from reclm.text.encoder import TextEncoder


def fit(
    backbone: str,
    data: Dataset,
    profiles: Profiles | TextProfiles | None = None,
    *,
    fusion: Fusion = "dual-mlp",
    recipe: RecipeName = "default",
    seed: int = 0,
    epochs: int | None = None,
    encoder: str | None = None,
    progress: bool = True,
    **options: Any,
) -> Recommender:
    """Train a backbone on a data set, and choose the epoch on its validation part; without one train all epochs.

    Args:
        backbone: ``lightgcn``, ``biasmf``, … or ``module:Class``, one of your own.
        data: the data set.
        profiles: of its users, its items or both; the model is augmented with them.
        fusion: how they enter, see :data:`~reclm.recommend.base.Fusion`: ``"dual-mlp"`` is the papers', ``"residual"``
            begins as the plain model, ``"text"`` joins an item's profile to its text (a user's is the residual term),
            ``"auto"`` trains the plain model, too, and takes what gains on validation.
        recipe: options that are not given: ``"default"`` does well on many data sets, ``"paper"`` is each paper's.
        seed: of the initial weights and all draws.
        epochs: at most; by default the recipe's.
        encoder: of item texts, by default that of the profiles, else all-MiniLM-L6-v2.
        progress: show a bar.
        options: of the backbone (``dim=64``) and of its training (``lr=1e-3``), by name.

    Raises:
        NotFound: for an unknown backbone, fusion or option, and where text, profiles or a validation part are needed
            and there are none.
        BadInput: for a value out of bounds, a fusion that the model cannot have, and if the training diverges.
    """
    check_seed(seed=seed)
    check_dataset(data)
    if profiles is not None:
        check_type("profiles", profiles, (Profiles, TextProfiles), HOW)
    cls = plugins.get("backbone", backbone)
    usual = recipe_options(recipe, backbone, cls, data.has_item_text)
    given = split_options({backbone: cls.Config}, options)
    model_options, train_options = (part | own for part, own in zip(usual, given, strict=True))
    config = cls.Config.build(model_options, where=f"backbone {backbone}")
    train_options |= {} if epochs is None else {"epochs": epochs}
    schedule = TrainConfig.build(train_options, where="training")
    inputs, text_encoder = _inputs(cls, backbone, config, data, profiles, fusion, encoder, progress)
    sampler = TripleSampler(data.train, inputs.users, inputs.items) if cls.trains else None
    select: dict[str, Task] = {"valid": validation_task(data)} if len(data.valid) else {}
    most, chosen = schedule.epochs if cls.trains else 0, {}
    most *= len(ways(inputs)) if inputs.fusion == "auto" else 1
    with progress_bar(f"training {backbone}", most, progress and most > 0) as advance:
        training = (sampler, select, schedule, seed, lambda epoch: advance(1))
        if inputs.fusion == "auto":
            way, model, result = train_auto(cls, config, inputs, *training)
            inputs, chosen = ways(inputs)[way], {"fusion": way}
            profiles = None if way == "none" else profiles
        else:
            inputs = inputs.by(inputs.fusion)
            model, result = train_backbone(cls, config, inputs, *training)
    about = SavedModel(
        backbone=backbone,
        config=config.model_dump(mode="json"),
        variant="base" if profiles is None else "augment",
        fusion=inputs.fusion,
        chosen=chosen,
        seed=seed,
        dataset=data.name,
        dataset_folder=None if data.folder is None else str(data.folder.resolve()),
        fingerprint=data.fingerprint,
        encoder=text_encoder.name if text_encoder else "",
        encoder_source=text_encoder.source if text_encoder else None,
        environment=environment(),
    )
    return Recommender(about, model, data, inputs, profiles, result.history)


def split_options(
    configs: Mapping[str, type[Config]], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of backbones, whose ``configs`` are by name, and of the training; NotFound for any other."""
    fields = {field for config in configs.values() for field in config.model_fields}
    for option in options:
        if option not in fields | {*TrainConfig.model_fields}:
            what = f"option of backbone {', '.join(configs)} and its training"
            raise unknown(what, option, fields | {*TrainConfig.model_fields})
    parts = (fields, TrainConfig.model_fields)
    model, train = ({key: options[key] for key in options if key in part} for part in parts)
    return model, train


def _inputs(
    cls: type[Backbone],
    name: str,
    config: Config,
    data: Dataset,
    profiles: Profiles | TextProfiles | None,
    fusion: Fusion,
    encoder: str | None,
    progress: bool,
) -> tuple[Inputs, TextEncoder | None]:
    """Return the inputs of a backbone, and the encoder of its texts (None: it reads none)."""
    check_fusion(fusion)
    if profiles is not None:
        cls.check_fusion(fusion, config, profiles.kinds, name)
    sides = {} if profiles is None else _matrices(cls, profiles, data, fusion)
    cls.check_profiles(sides, name)
    text = text_encoder = joined = None
    if profiles is not None:
        text_encoder = profiles.encoder
        if encoder is not None and TextEncoder(encoder).name != text_encoder.name:
            raise BadInput(
                f"the profiles are embedded by {text_encoder.name!r}, item texts are to be by {encoder!r}; open "
                "the profiles with that encoder, too",
                value=encoder,
                where="encoder",
                remedy=text_encoder.name,
            )
    if cls.needs_text(config, data, name):
        text_encoder = text_encoder or TextEncoder(encoder)
        if isinstance(profiles, Profiles) and joins_text(fusion, sides):
            source = profiles.row_texts("item"), joined_cache(profiles.folder), text_encoder
            joined = joined_features(data.view(), *source, progress=progress)
        if joined is None or fusion == "auto":
            text = item_text_features(data.view(), text_encoder, progress=progress)
    sizes = len(data.users), len(data.items)
    inputs = Inputs(*sizes, data.train, text, sides.get("user"), sides.get("item"))
    if profiles is not None:
        inputs = replace(inputs, fusion=fusion, joined=joined)
    return inputs, text_encoder


def _matrices(
    cls: type[Backbone], profiles: Profiles | TextProfiles, data: Dataset, fusion: Fusion
) -> dict[ProfileKind, ProfileMatrix]:
    """Return the profile embeddings that the backbone reads, of the kinds that have any."""
    if profiles.fingerprint != data.fingerprint:
        raise BadInput(
            f"the profiles were written from another data set than {data.name!r}: its fingerprint is "
            f"{data.fingerprint}, theirs {profiles.fingerprint}; write profiles from this one",
            value=profiles.fingerprint,
            where="profiles",
        )
    kinds: tuple[ProfileKind, ...] = ("user", "item") if cls.needs_profiles is None else (cls.needs_profiles,)
    matrices: dict[ProfileKind, ProfileMatrix] = {}
    for kind in kinds:
        if kind not in profiles.kinds:
            continue
        if isinstance(profiles, Profiles) and (kind, fusion) == ("item", "text"):
            matrices[kind] = ProfileMatrix.without_vectors(profiles.row_texts(kind))
        else:
            matrices[kind] = profiles.matrix(kind)
    present: dict[ProfileKind, ProfileMatrix] = {
        kind: matrix for kind, matrix in matrices.items() if matrix.present.any()
    }
    if not present:
        message = f"there is no profile of any user or item of data set {data.name!r}"
        raise NotFound(f"{message}; write some, or leave profiles out", value=data.name, where="profiles")
    return present
