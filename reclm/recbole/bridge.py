"""RecBole's models, trained by RecBole's own trainer, on a reclm data set and with its profiles.

    run = recbole_run("LightGCN", dataset, profiles={"user": users, "item": items}, config={"epochs": 50})
    run.metrics["ndcg@20"], run.results["full-shot"].mean()["ndcg@20"]

RecBole is handed our splits (``benchmark_filename``), so that both sides train and test on the same interactions. It
ranks *all* items, those that only the zero-shot protocol asks for as well; our own results rank each protocol's.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reclm.console import progress_bar
from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.id_map import IdMap
from reclm.data.readers.recbole import SPLITS, write_atomic
from reclm.errors import BadInput, unknown
from reclm.fusion.augment import Augmented, augment
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profiles import Profiles
from reclm.recbole.compat import as_a_library, patch
from reclm.recommend.evaluate import DEFAULT_METRICS, PerUser, Scorer, evaluate, test_tasks

EMBEDDINGS: dict[str, list[tuple[str, str]]] = {
    "NeuMF": [("user_mf_embedding", "item_mf_embedding"), ("user_mlp_embedding", "item_mlp_embedding")]
}
"""The user and item embeddings of models that do not call them ``user_embedding`` and ``item_embedding``."""
NAME = "reclm"
"""Name of the data set in RecBole (``ml-100k`` would make RecBole read its own files)."""


@dataclass(eq=False)
class RecBole:
    """Hold a RecBole model with its data, before and after training.

    Attributes:
        config, data, trainer: RecBole's ``Config``, ``Dataset`` and, from :meth:`train` on, trainer.
        rows: the embedding row of every user (item) of our data set, ``(n,)`` int64; row 0 is nobody's.
        loaders: RecBole's data loaders: train, valid (None without validation interactions), test.
    """

    dataset: Dataset
    folder: Path
    config: Any
    data: Any
    rows: dict[ProfileKind, np.ndarray]
    loaders: tuple[Any, Any, Any]
    model: nn.Module
    trainer: Any = None

    def augment(self, profiles: Profiles | Mapping[ProfileKind, ProfileMatrix], **options: Any) -> Augmented:
        """Fuse profiles into the model's embeddings by :func:`reclm.augment`, with its options, before :meth:`train`.

        NeuMF has two pairs of embeddings, and gets a dual MLP for each.
        """
        rows = {f"{kind}_rows": rows for kind, rows in self.rows.items()}
        options = {"generator": torch.Generator().manual_seed(self.config["seed"])} | options
        for users, items in EMBEDDINGS.get(self.config["model"], [("user_embedding", "item_embedding")]):
            augment(self.model, profiles, users=users, items=items, data=self.dataset, **rows, **options)
        return Augmented(self.model)

    def train(self, progress: bool = False) -> dict[str, float]:
        """Train with RecBole's trainer, load the best epoch's weights, and return its test metrics by name."""
        from recbole.utils import init_seed

        train, valid, test = self.loaders
        name, epochs = self.config["model"], self.config["epochs"]
        with as_a_library(self.folder), progress_bar(f"RecBole {name}", epochs, progress) as advance:
            init_seed(self.config["seed"], self.config["reproducibility"])
            trainer = self.make_trainer(on_epoch=lambda: advance(1))
            trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
            metrics = trainer.evaluate(test)
            trainer.tensorboard.close()
        return {metric: float(value) for metric, value in metrics.items()}

    def make_trainer(self, on_epoch: Callable[[], None] = lambda: None) -> Any:
        """Return RecBole's trainer for the model as it is now, and set :attr:`trainer`.

        During an evaluation augmented tables are fused once, not in every batch; in a training step once too, where
        that is less than to fuse the rows looked up.
        """
        from recbole.utils import get_trainer

        trainer = get_trainer(self.config["MODEL_TYPE"], self.config["model"])(self.config, self.model)
        train_epoch, evaluate = trainer._train_epoch, trainer.evaluate

        # a step looks up a user and two items a triple; a graph model reads whole tables besides
        rows = len(self.dataset.users) + len(self.dataset.items)
        fuse_tables = bool(self._cached()) or rows <= 3 * self.config["train_batch_size"]

        def with_tables_fused_once(interaction: Any) -> Any:
            with parametrize.cached():
                return trainer.model.calculate_loss(interaction)

        def own_epoch(*args: Any, **options: Any) -> Any:
            if fuse_tables:
                options["loss_func"] = with_tables_fused_once
            loss = train_epoch(*args, **options)
            on_epoch()
            return loss

        def own_evaluation(*args: Any, **options: Any) -> Any:
            with parametrize.cached():
                return evaluate(*args, **options)

        trainer._train_epoch, trainer.evaluate = own_epoch, own_evaluation
        self.trainer = trainer
        return trainer

    def forget(self) -> None:
        """Drop the propagated embeddings that a graph model caches between evaluations."""
        for name in self._cached():
            setattr(self.model, name, None)

    def _cached(self) -> tuple[str, ...]:
        names = getattr(self.model, "other_parameter_name", None) or ()
        return tuple(name for name in names if name.startswith("restore_"))

    def scorer(self) -> Scorer:
        """Return the scorer of the model as it is now, in rows of the data set."""
        from recbole.data.interaction import Interaction

        model: Any = self.model
        user_rows, item_rows = (torch.from_numpy(self.rows[kind]) for kind in ("user", "item"))
        user_field, item_field = self.data.uid_field, self.data.iid_field
        model.eval()
        self.forget()

        def score(user_idx: Tensor, item_idx: Tensor) -> Tensor:
            users, items = user_rows[user_idx].to(model.device), item_rows[item_idx].to(model.device)
            try:
                scores = model.full_sort_predict(Interaction({user_field: users}))
                return scores.view(len(users), -1)[:, items].cpu()
            except NotImplementedError:  # NeuMF scores pairs only
                pairs = {
                    user_field: users.repeat_interleave(len(items)),
                    item_field: items.repeat(len(users)),
                }
                return model.predict(Interaction(pairs)).view(len(users), -1).cpu()

        return score

    def evaluate(self, metrics: Sequence[str] = DEFAULT_METRICS) -> dict[str, PerUser]:
        """Evaluate the model as it is now by our all-rank evaluation: protocol name to per-user results."""
        block = max(1, 2**20 // len(self.dataset.items))  # NeuMF holds 2 d numbers for every pair
        with torch.no_grad(), parametrize.cached():
            scorer, tasks = self.scorer(), test_tasks(self.dataset)
            return {name: evaluate(scorer, task, metrics, block) for name, task in tasks.items()}


@dataclass(frozen=True, eq=False)
class RecBoleRun:
    """Hold a trained model, RecBole's own test metrics, over all items, and our results, by protocol and per user."""

    metrics: dict[str, float]
    results: dict[str, PerUser]
    model: nn.Module


def recbole_run(
    model_name: str,
    dataset: Dataset,
    profiles: Profiles | Mapping[ProfileKind, ProfileMatrix] | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    progress: bool = False,
    **options: Any,
) -> RecBoleRun:
    """Train and evaluate a RecBole model on a data set, with or without profiles.

    Args:
        model_name: RecBole's name of it: ``"BPR"``, ``"NeuMF"``, ``"LightGCN"``, ``"SGL"``, …
        profiles: of users, items or both, or matrices by kind in the data set's row order.
        config: RecBole's settings. By default its own, but for NDCG@20 on the validation part, which chooses the epoch,
            and metrics at 20 and 40, not rounded.
        folder: of the checkpoint and the TensorBoard events; by default a temporary one.
        metrics: of our evaluation.
        options: of :func:`reclm.augment`.
    """
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory(prefix="reclm-recbole-")))
        recbole = open_recbole(model_name, dataset, place, config)
        if profiles is not None:
            recbole.augment(profiles, **options)
        return RecBoleRun(recbole.train(progress), recbole.evaluate(metrics), recbole.model)


def open_recbole(
    model_name: str, dataset: Dataset, folder: Path, config: Mapping[str, Any] | None = None
) -> RecBole:
    """Open data, loaders and an untrained model, seeded by RecBole's setting ``seed``; files go into ``folder``."""
    patch()
    _check_splits(dataset)
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    files = folder / NAME
    mark = files / "fingerprint.txt"  # written last
    if not files.exists():
        write_atomic(dataset, files)
        mark.write_text(dataset.fingerprint, encoding="utf-8")
    if not mark.is_file() or mark.read_text(encoding="utf-8") != dataset.fingerprint:
        raise BadInput(
            f"{files} holds other data, or was written by a call that was cut short; give another folder, or remove it",
            value=str(files),
        )
    with as_a_library(folder):
        settings = _make_config(model_name, dataset, folder, config or {})
        seed = settings["seed"], settings["reproducibility"]
        init_seed(*seed)
        data = create_dataset(settings)
        rows = _embedding_rows(data, dataset)
        train, valid, test = data_preparation(settings, data)
        init_seed(*seed)
        model = settings.model_class(settings, train._dataset).to(settings["device"])
    loaders = train, valid if len(dataset.valid) else None, test
    return RecBole(dataset, folder, settings, data, rows, loaders, model)


def _check_splits(dataset: Dataset) -> None:
    """Check that RecBole can read a data set: it needs a test part, and a negative for every user."""
    if not len(dataset.test):
        message = f"data set {dataset.name!r} has no test interactions, which RecBole cannot do without"
        raise BadInput(message, value="test", where=dataset.name)
    touched = dataset.joined(SPLITS).matrix(len(dataset.users), len(dataset.items)).sum(1)
    if touched.max() == len(dataset.items):
        user = dataset.users.ids(np.array([touched.argmax()]))[0]
        message = (
            f"user {user!r} has interacted with every item, and RecBole finds no negative; leave them out"
        )
        raise BadInput(message, value=user, where=dataset.name)


def _embedding_rows(data: Any, dataset: Dataset) -> dict[ProfileKind, np.ndarray]:
    """Return the row in RecBole's embeddings of every user, and every item: ``(n,)`` int64; row 0 is padding, nobody's.

    RecBole's ``Dataset`` numbers ids in the order it meets them, and reads some, such as ``NA``, as missing: BadInput.
    """
    fields: dict[ProfileKind, str] = {"user": data.uid_field, "item": data.iid_field}
    rows, view = {}, dataset.view()
    for kind, field in fields.items():
        ids = view.idmap(kind)
        rows[kind] = IdMap(map(str, data.field2id_token[field][1:]), kind).find(ids.array) + 1
        if not rows[kind].all():
            lost = ids.ids(np.flatnonzero(rows[kind] == 0)[:1])[0]
            message = f"{kind} id {lost!r} is a missing value to RecBole's reader; rename it in the data"
            raise BadInput(message, value=lost, where=kind)
    return rows


def _make_config(model_name: str, dataset: Dataset, folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return RecBole's ``Config`` of the bridge's settings, the caller's, our defaults and RecBole's, in this order."""
    from recbole.config import Config
    from recbole.model import general_recommender

    known = [name for name, value in vars(general_recommender).items() if isinstance(value, type)]
    if model_name not in known:
        raise unknown("general recommender of RecBole", model_name, known)
    columns, every = {"inter": ["user_id", "item_id"]}, dataset.joined(SPLITS)
    for kind, idx, ids in (("user", every.user_idx, dataset.users), ("item", every.item_idx, dataset.items)):
        if len(np.unique(idx)) < len(ids):  # some are in no interaction
            columns[kind] = [f"{kind}_id"]
    fixed = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "benchmark_filename": list(SPLITS),
        "load_col": columns,
    }
    for name in settings:
        if name in (*fixed, "USER_ID_FIELD", "ITEM_ID_FIELD"):
            raise BadInput(f"RecBole setting {name!r} is the bridge's own; leave it out", value=name)
    topk = settings.get("topk", [20, 40])
    at = [topk] if isinstance(topk, int) else list(topk)
    chosen = {
        "topk": at,
        "valid_metric": f"NDCG@{20 if 20 in at else at[0]}",
        "metric_decimal_place": 10,
        "show_progress": False,
    }
    config: Any = Config(model=model_name, dataset=NAME, config_dict=chosen | dict(settings) | fixed)
    computed = [f"{metric}@{k}".lower() for metric in config["metrics"] for k in config["topk"]]
    if config["valid_metric"].lower() not in computed:
        raise unknown("valid_metric among RecBole's metrics", config["valid_metric"].lower(), computed)
    known = {name for names in config.parameters.values() for name in names} | set(
        config.internal_config_dict
    )
    for name in settings:
        if name not in known:
            raise unknown("RecBole setting", name, known)
    return config
