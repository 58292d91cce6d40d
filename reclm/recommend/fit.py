"""Fit a backbone to a data set, with profiles or without."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reclm import plugins
from reclm.config import Config
from reclm.console import progress_bar
from reclm.data.dataset import Dataset, ProfileKind
from reclm.environment import environment
from reclm.errors import BadInput, NotFound, unknown
from reclm.profiles.matrix import ProfileMatrix, item_text_features
from reclm.recommend.base import Inputs
from reclm.recommend.evaluate import Task, validation_task
from reclm.recommend.recommender import ProfilesLike, Recommender, folder_of
from reclm.recommend.saved import SavedModel
from reclm.recommend.training import TrainConfig, TripleSampler, train_backbone

if TYPE_CHECKING:
    from reclm.text.encoder import TextEncoder

__all__ = ["Recommender", "fit", "make_inputs", "split_options"]

KINDS: tuple[ProfileKind, ...] = ("user", "item")


def fit(
    backbone: str,
    data: Dataset,
    profiles: ProfilesLike | None = None,
    *,
    seed: int = 0,
    epochs: int | None = None,
    encoder: str | None = None,
    progress: bool = True,
    **options: Any,
) -> Recommender:
    """Train a backbone on the training part of a data set, and choose the epoch on its validation part.

    Where there is no validation part all epochs are trained.

    Args:
        backbone: ``lightgcn``, ``biasmf``, … or ``module:Class``, one of your own.
        data: the data set.
        profiles: of its users, its items or both; the model is augmented with them.
        seed: of the initial weights and all draws.
        epochs: at most; by default 50.
        encoder: of item texts, by default that of the profiles, else all-MiniLM-L6-v2.
        progress: show a bar.
        options: of the backbone (``dim=64``) and of its training (``lr=1e-3``), by name.

    Raises:
        NotFound: for an unknown backbone or option, and where text or profiles are needed and there are none.
        BadInput: for a value out of bounds, and if the training diverges.
    """
    cls = plugins.get("backbone", backbone)
    config, schedule = split_options(backbone, options | ({} if epochs is None else {"epochs": epochs}))
    inputs, text_encoder = make_inputs(backbone, config, data, profiles, encoder, progress)
    sampler = TripleSampler(data.train, inputs.users, inputs.items) if cls.trains else None
    select: dict[str, Task] = {"valid": validation_task(data)} if len(data.valid) else {}
    most = schedule.epochs if cls.trains else 0
    with progress_bar(f"training {backbone}", most, progress and most > 0) as advance:
        model, result = train_backbone(
            cls, config, inputs, sampler, select, schedule, seed, lambda epoch: advance(1)
        )
    about = SavedModel(
        backbone=backbone,
        config=config.model_dump(mode="json"),
        variant="base" if profiles is None else "augment",
        seed=seed,
        dataset=data.name,
        dataset_folder=folder_of(data),
        fingerprint=data.fingerprint,
        encoder=text_encoder.name if text_encoder else "",
        encoder_source=text_encoder.source if text_encoder else None,
        environment=environment(),
    )
    return Recommender(about, model, data, inputs, profiles, result.history)


def split_options(backbone: str, options: Mapping[str, Any]) -> tuple[Config, TrainConfig]:
    """Return the options of a backbone and those of its training.

    Raises:
        NotFound: for an option that neither has.
        BadInput: for a value out of bounds.
    """
    cls = plugins.get("backbone", backbone).Config
    known = {*cls.model_fields, *TrainConfig.model_fields}
    for name in options:
        if name not in known:
            raise unknown(f"option of backbone {backbone} and its training", name, known)
    model = {name: value for name, value in options.items() if name in cls.model_fields}
    training = {name: value for name, value in options.items() if name in TrainConfig.model_fields}
    return cls.build(model, where=f"backbone {backbone}"), TrainConfig.build(training, where="training")


def make_inputs(
    backbone: str,
    config: Config,
    data: Dataset,
    profiles: ProfilesLike | None = None,
    encoder: "str | TextEncoder | None" = None,
    progress: bool = True,
) -> tuple[Inputs, "TextEncoder | None"]:
    """Return what a backbone is built from, and the encoder of its texts (None: it reads none).

    Raises:
        NotFound: for a backbone that needs item text or profiles where there are none.
        BadInput: for profiles of another data set.
    """
    from reclm.text.encoder import TextEncoder

    cls = plugins.get("backbone", backbone)
    needed = cls.needs_profiles
    sides = {} if profiles is None else _matrices(profiles, data, KINDS if needed is None else (needed,))
    cls.check_profiles(sides, backbone)
    reads_text = cls.reads_text(config)
    text = text_encoder = None
    if profiles is not None:
        text_encoder = profiles.encoder
        if isinstance(encoder, str) and TextEncoder(encoder).name != text_encoder.name:
            raise BadInput(
                f"the profiles are embedded by {text_encoder.name!r}, item texts are to be by {encoder!r}; open "
                "the profiles with that encoder, too",
                value=encoder,
                where="encoder",
                remedy=text_encoder.name,
            )
    elif reads_text:
        text_encoder = encoder if isinstance(encoder, TextEncoder) else TextEncoder(encoder)
    if reads_text:
        if not data.item_text.num_columns:
            raise NotFound(
                f"data set {data.name!r} has no item text, which backbone {backbone!r} reads; give it items='id' "
                "(--set items=id), if it has that option",
                value=data.name,
                where="item_text",
                remedy="--set items=id",
            )
        assert text_encoder is not None
        text = item_text_features(data.view(), text_encoder, progress=progress)
    inputs = Inputs(len(data.users), len(data.items), data.train, text, sides.get("user"), sides.get("item"))
    return inputs, text_encoder


def _matrices(
    profiles: ProfilesLike, data: Dataset, kinds: Sequence[ProfileKind]
) -> dict[ProfileKind, ProfileMatrix]:
    """Return the profile embeddings of the kinds that have any."""
    if profiles.fingerprint != data.fingerprint:
        raise BadInput(
            f"the profiles were written from another data set than {data.name!r}: its fingerprint is "
            f"{data.fingerprint}, theirs {profiles.fingerprint}; write profiles from this one",
            value=profiles.fingerprint,
            where="profiles",
        )
    matrices: dict[ProfileKind, ProfileMatrix] = {kind: profiles.matrix(kind) for kind in kinds}
    return {kind: matrix for kind, matrix in matrices.items() if matrix.present.any()}
