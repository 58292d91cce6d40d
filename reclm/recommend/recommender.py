"""A fitted model that recommends, is evaluated, steered and saved."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from reclm.data.dataset import Dataset, check_dataset
from reclm.errors import BadInput, NotFound, unknown
from reclm.folders import to_path
from reclm.profiles.profiles import Profiles, TextProfiles
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import DEFAULT_METRICS, PerUser, check_tested, evaluate, test_tasks
from reclm.recommend.metrics import check_metrics, title
from reclm.recommend.saved import SavedModel, save_model
from reclm.recommend.serve import NewItems, rank_items
from reclm.recommend.steering import Steered, steer
from reclm.text.encoder import TextEncoder


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The test results of a model on ``data``, user by user; ``values`` by protocol."""

    data: Dataset
    values: dict[str, PerUser]

    def table(self, metrics: Sequence[str] = ()) -> pd.DataFrame:
        """Return the means over users: a row a protocol, a column a metric; NotFound for one that was not measured.

        By default NDCG@20 and Recall@20 are shown, or all where neither was measured.
        """
        rows = {}
        for protocol, result in self.values.items():
            means = result.mean()
            usual = [name for name in ("ndcg@20", "recall@20") if name in means]
            names = [name.lower() for name in metrics] or usual or list(means)
            for name in names:
                if name not in means:
                    raise unknown("metric", name, map(title, means))
            columns = {title(name): means[name] for name in names}
            rows[protocol] = {"users": len(result.users)} | columns
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")

    def per_user(self) -> pd.DataFrame:
        """Return a row a protocol and user, with a column a metric."""
        frames = [
            pd.DataFrame({"protocol": protocol, "user": self.data.users.ids(result.users), **result.values})
            for protocol, result in self.values.items()
        ]
        frame = pd.concat(frames, ignore_index=True)
        return frame.rename(columns=lambda name: title(name) if "@" in name else name)

    def __repr__(self) -> str:
        return f"Evaluation on {self.data.name}\n{self.table().round(4).to_string()}"

    def _repr_html_(self) -> str:
        return self.table().round(4).to_html()


@dataclass(frozen=True, eq=False)
class Recommender:
    """A fitted model that recommends.

    Attributes:
        about: backbone, options, seed, data set and encoder.
        model: the backbone, in evaluation mode.
        data: the data set that it was trained on.
        inputs: item text and profiles that it was built from.
        profiles: those that it was fitted with; None without, and for a model that was loaded.
        history: a mapping an epoch of the training: ``epoch``, ``loss``, ``seconds`` and the selection metric.
    """

    about: SavedModel
    model: Backbone
    data: Dataset
    inputs: Inputs
    profiles: Profiles | TextProfiles | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder of the training; NotFound without text, BadInput if the encoder is another by now."""
        if self.profiles is not None:
            return self.profiles.encoder
        if not self.about.encoder:
            raise NotFound("the model was trained without text, so it has no text encoder", where="encoder")
        encoder = TextEncoder(self.about.encoder_source)
        if encoder.name != self.about.encoder:
            message = (
                f"the model reads texts as encoder {self.about.encoder!r} writes them, and "
                f"{self.about.encoder_source} is now {encoder.name!r}; bring the encoder back, or train again"
            )
            raise BadInput(message, value=encoder.name, where=self.about.encoder_source)
        return encoder

    @cached_property
    def representations(self) -> tuple[Tensor, Tensor]:
        """The vectors of all users and items that are scored, ``(U, d')`` and ``(I, d')``; computed once."""
        return self.model.representations()

    def recommend(
        self,
        users: Any = None,
        *,
        history: Sequence[Any] | None = None,
        profile: str | None = None,
        new_items: Any = None,
        k: int = 20,
    ) -> pd.DataFrame:
        """Return the ``k`` best items of each user: columns ``user``, ``rank``, ``item``, ``title``, ``score``.

        A user of the data set is not offered what it touched in training or validation, a new one nothing of its
        history. Items known by their ID alone are ranked only where training saw them. ``frame.attrs`` says in words
        what the user was built from and which items were ranked.

        Args:
            users: an id of the data set, or several; or, for one new user,
            history: ids of the items that it touched,
            profile: its profile text, or both.
            new_items: items to rank too that came after training: a data frame or a file (CSV, TSV, Parquet, JSON
                lines) with ``item_id``, the text fields of the data set and, if items have one, ``profile``. A column
                ``new`` then marks them.
            k: items a user.

        Raises:
            NotFound: for unknown ids.
            BadInput: if the model cannot take such a user or new items, or nothing is left to rank.
        """
        if new_items is not None and not isinstance(new_items, NewItems):
            new_items = NewItems.read(new_items, self.data)
        return rank_items(self, users, history, profile, new_items, k)

    def evaluate(
        self, data: Dataset | None = None, *, metrics: Sequence[str] = DEFAULT_METRICS
    ) -> Evaluation:
        """Rank all candidates of each protocol for every test user, and take the metrics.

        Args:
            data: a data set of the same users and items, in place of the model's own.
            metrics: names like ``"recall@20"``, in any case.

        Raises:
            BadInput: for a data set of other users or items.
            NotFound: for an unknown metric, and for a data set without a test part.
        """
        data = self.data if data is None else check_dataset(data)
        for trained, other in ((self.data.users, data.users), (self.data.items, data.items)):
            if not trained.array.equals(other.array):
                message = (
                    f"data set {data.name!r} has other {trained.what}s than {self.data.name!r}, on which the model was "
                    "trained; split the same data set, or fit another model"
                )
                raise BadInput(message, value=data.name, where=trained.what)
        check_tested(data)
        names = check_metrics(metrics)
        tasks = test_tasks(data, "valid" in self.about.trained_on)
        values = {name: evaluate(self.model.scorer(), task, names) for name, task in tasks.items()}
        return Evaluation(data, values)

    def steer(self, user: Any, edit: str | None, k: int = 20) -> Steered:
        """Rank items for a user, and for the same user with its profile replaced by ``edit``.

        Raises:
            NotFound: for an unknown user.
            BadInput: if the model reads no profiles of users, or the edited profile is empty or the same.
        """
        return steer(self, user, edit, k)

    def save(self, folder: str | Path) -> None:
        """Write the model to ``folder``, as a whole or not at all; :func:`reclm.load_model` reads it.

        A data set that lies in no folder is saved with it.

        Raises:
            BadInput: if ``folder`` holds something else than a model, or cannot be written.
        """
        alone = self.data if self.data.folder is None else None
        save_model(to_path(folder, "folder"), self.about, self.model, self.inputs, alone)

    def __repr__(self) -> str:
        return f"Recommender({', '.join(f'{key}={value}' for key, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        cells = ((key, escape(str(value))) for key, value in self._summary().items())
        rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells)
        return f"<table><caption>Recommender</caption>{rows}</table>"

    def _summary(self) -> dict[str, Any]:
        about = self.about
        sides = {"user": self.inputs.user_profiles, "item": self.inputs.item_profiles}
        counts = [f"{int(side.present.sum()):,} {kind}s" for kind, side in sides.items() if side is not None]
        summary = {
            "backbone": about.backbone,
            "data": f"{about.dataset} ({len(self.data.users):,} users, {len(self.data.items):,} items)",
            "profiles": ", ".join(counts) or "none",
            "seed": about.seed,
        }
        if "fusion" in about.chosen:
            summary["fusion"] = f"{about.chosen['fusion']}, chosen on validation"
        elif counts or about.fusion != "dual-mlp":
            summary["fusion"] = about.fusion
        return summary | ({"epochs": len(self.history)} if self.history else {})
