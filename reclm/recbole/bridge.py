"""RecBole's models, trained by RecBole's own trainer, on a reclm data set and with its profiles.

    run = recbole_run("LightGCN", dataset, profiles={"user": users, "item": items}, config={"epochs": 50})
    run.metrics["ndcg@20"], run.results["full-shot"].mean()["ndcg@20"]

RecBole is handed our splits (``benchmark_filename``), so that both sides train and test on the same interactions. It
ranks *all* items, those that only the zero-shot protocol asks for as well; our own results rank each protocol's.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reclm.console import progress_bar
from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.readers.recbole import write_atomic
from reclm.errors import BadInput
from reclm.fusion.augment import Augmented, augment
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profiles import Profiles
from reclm.recbole.compat import patch
from reclm.recbole.settings import NAME, as_a_library, check_splits, embedding_rows, make_config
from reclm.recommend.evaluate import DEFAULT_METRICS, PerUser, Scorer, Task, evaluate

EMBEDDINGS: dict[str, list[tuple[str, str]]] = {
    "NeuMF": [("user_mf_embedding", "item_mf_embedding"), ("user_mlp_embedding", "item_mlp_embedding")]
}
"""The user and item embeddings of models that do not call them ``user_embedding`` and ``item_embedding``."""


@dataclass(eq=False)
class RecBole:
    """Hold a RecBole model with its data, before and after training.

    Attributes:
        config: RecBole's ``Config``.
        data: RecBole's ``Dataset``.
        rows: the embedding row of every user (item) of our data set, ``(n,)`` int64; row 0 is nobody's.
        loaders: RecBole's data loaders: train, valid (None without validation interactions), test.
        model: the recommender.
        trainer: RecBole's trainer, from :meth:`train` on.
        epoch_seconds, evaluation_seconds: of every training epoch, and every evaluation (validation and test).
    """

    dataset: Dataset
    folder: Path
    config: Any
    data: Any
    rows: dict[ProfileKind, np.ndarray]
    loaders: tuple[Any, Any, Any]
    model: nn.Module
    trainer: Any = None
    epoch_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)

    def augment(self, profiles: Profiles | Mapping[ProfileKind, ProfileMatrix], **options: Any) -> Augmented:
        """Fuse profiles into the model's embeddings, by :func:`reclm.augment`; before :meth:`train`.

        NeuMF has two pairs of embeddings, and gets a dual MLP for each.

        Args:
            profiles: of users, items or both, or matrices by kind in the data set's row order.
            options: passed on.

        Returns:
            The handle of all that was augmented.
        """
        rows = {f"{kind}_rows": rows for kind, rows in self.rows.items()}
        options = {"generator": torch.Generator().manual_seed(self.config["seed"])} | options
        for users, items in EMBEDDINGS.get(self.config["model"], [("user_embedding", "item_embedding")]):
            augment(self.model, profiles, users=users, items=items, data=self.dataset, **rows, **options)
        return Augmented(self.model)

    def train(self, progress: bool = False) -> dict[str, float]:
        """Train with RecBole's trainer, load the best epoch's weights, and test.

        Returns:
            RecBole's test metrics, e.g. ``"recall@20"``, as floats.
        """
        from recbole.utils import init_seed

        train, valid, test = self.loaders
        name, epochs = self.config["model"], self.config["epochs"]
        with as_a_library(self.folder), progress_bar(f"RecBole {name}", epochs, progress) as advance:
            init_seed(self.config["seed"], self.config["reproducibility"])
            trainer = self.make_trainer(on_epoch=lambda: advance(1))
            trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
            found = trainer.evaluate(test)
            trainer.tensorboard.close()
        return {metric: float(value) for metric, value in found.items()}

    def make_trainer(self, on_epoch: Callable[[], None] = lambda: None) -> Any:
        """Return RecBole's trainer for the model as it is now, and keep it as :attr:`trainer`; it is timed.

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

        def timed_epoch(*args: Any, **options: Any) -> Any:
            if fuse_tables:
                options["loss_func"] = with_tables_fused_once
            with _timed(self.epoch_seconds):
                loss = train_epoch(*args, **options)
            on_epoch()
            return loss

        def timed_evaluation(*args: Any, **options: Any) -> Any:
            with _timed(self.evaluation_seconds), parametrize.cached():
                return evaluate(*args, **options)

        trainer._train_epoch, trainer.evaluate = timed_epoch, timed_evaluation
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

        def full(users: Tensor) -> Tensor:
            return model.full_sort_predict(Interaction({user_field: users})).view(len(users), -1)

        def pairs(users: Tensor, items: Tensor) -> Tensor:
            every = {user_field: users.repeat_interleave(len(items)), item_field: items.repeat(len(users))}
            return model.predict(Interaction(every)).view(len(users), -1)

        def score(user_idx: Tensor, item_idx: Tensor) -> Tensor:
            users = user_rows[user_idx].to(model.device)
            items = item_rows[item_idx].to(model.device)
            try:
                return full(users)[:, items].cpu()
            except NotImplementedError:  # NeuMF scores pairs only
                return pairs(users, items).cpu()

        return score

    def evaluate(self, metrics: Sequence[str] = DEFAULT_METRICS) -> dict[str, PerUser]:
        """Evaluate the model as it is now by our all-rank evaluation: protocol name to per-user results."""
        block = max(1, 2**20 // len(self.dataset.items))  # NeuMF holds 2 d numbers for every pair
        sizes = len(self.dataset.users), len(self.dataset.items)
        results = {}
        with torch.no_grad(), parametrize.cached():
            scorer = self.scorer()
            for one in self.dataset.protocols:
                mask, train = self.dataset.joined(one.mask), self.dataset.train
                task = Task.of(self.dataset.test, mask, one.candidates, *sizes, train)
                results[one.name] = evaluate(scorer, task, metrics, block)
        return results


@dataclass(frozen=True, eq=False)
class RecBoleRun:
    """Hold the results of a run.

    Attributes:
        metrics: RecBole's own test metrics, over all items.
        results: ours of the same model, by protocol, per user.
        epoch_seconds, evaluation_seconds: of every epoch; of every validation, and last the test.
        model: the trained model, with the profiles' adapters in it.
    """

    metrics: dict[str, float]
    results: dict[str, PerUser]
    epoch_seconds: list[float]
    evaluation_seconds: list[float]
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
        model_name: as RecBole calls it: ``"BPR"``, ``"NeuMF"``, ``"LightGCN"``, ``"SGL"``, …
        profiles: of users, items or both, or matrices by kind in the data set's row order.
        config: RecBole's settings. Where nothing is said: its own defaults, NDCG@20 on the validation part chooses
            the epoch, metrics at 20 and 40 are not rounded.
        folder: where checkpoint and TensorBoard events go; by default a temporary folder.
        metrics: what our evaluation computes.
        options: passed on to :func:`reclm.augment`.

    Raises:
        MissingExtra: if RecBole is missing or of another version.
        NotFound: for an unknown model or setting.
        BadInput: for a data set without a test part.
    """
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory(prefix="reclm-recbole-")))
        one = open_recbole(model_name, dataset, place, config)
        if profiles is not None:
            one.augment(profiles, **options)
        found = one.train(progress)
        return RecBoleRun(found, one.evaluate(metrics), one.epoch_seconds, one.evaluation_seconds, one.model)


def open_recbole(
    model_name: str, dataset: Dataset, folder: Path, config: Mapping[str, Any] | None = None
) -> RecBole:
    """Open data, loaders and an untrained model, seeded by RecBole's setting ``seed``; files go into ``folder``.

    Raises:
        MissingExtra, NotFound, BadInput: as :func:`recbole_run`.
    """
    patch()
    check_splits(dataset)
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
        made = make_config(model_name, dataset, folder, config or {})
        init_seed(made["seed"], made["reproducibility"])
        data = create_dataset(made)
        rows = embedding_rows(data, dataset)
        train, valid, test = data_preparation(made, data)
        init_seed(made["seed"], made["reproducibility"])
        model = made.model_class(made, train._dataset).to(made["device"])
    loaders = train, valid if len(dataset.valid) else None, test
    return RecBole(dataset, folder, made, data, rows, loaders, model)


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - begun)
