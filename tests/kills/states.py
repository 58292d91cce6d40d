"""The folders that commands begin in: raw data, a tiny model and encoder, prepared data sets, profiles, a run."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from reclm.data.dataset import Dataset, Interactions, Protocol, TrainingView
from reclm.data.storage import save
from tests.profilers.langptune import tiny_langptune
from tests.profilers.reclm import tiny_tuning
from tests.text import tiny


def write_csv(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def raw(folder: Path, users: int = 40) -> None:
    """``raw/interactions.csv`` and ``raw/items.csv``: users of three tastes, each with five films of theirs."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(users) for item in rng.permutation(8)[:6] * 3 + user % 3]
    rows = [(f"u{user}", f"i{item}", 1_600_000_000 + 1_000 * at) for at, (user, item) in enumerate(pairs)]
    write_csv(folder / "raw" / "interactions.csv", ("user_id", "item_id", "timestamp"), rows)
    words, tastes = tiny_langptune.WORDS, tiny_langptune.TASTES
    titles = [(f"i{at}", f"{words[at // 3]} {tastes[at % 3]} music") for at in range(24)]
    write_csv(folder / "raw" / "items.csv", ("item_id", "title"), titles)


def models(folder: Path) -> None:
    """``model.gguf``, ``model`` for transformers, and ``encoder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.CONTEXT = 2048
    tiny.write_tiny_gguf(folder / "model.gguf")
    tiny_tuning.model(folder / "model")
    tiny_langptune.encoder(folder / "encoder")


def of_view(view: TrainingView, folder: Path) -> None:
    """Save a view's training part as a data set, with a newest interaction of each user to test on."""
    users, items = len(view.users), len(view.items)
    later = Interactions(np.arange(users), (np.arange(users) * 3 + np.arange(users) % 3) % items)
    known = set(zip(view.train.user_idx.tolist(), view.train.item_idx.tolist(), strict=True))
    pairs = zip(later.user_idx.tolist(), later.item_idx.tolist(), strict=True)
    new = np.flatnonzero([pair not in known for pair in pairs])
    parts = (view.train, later.take(new[::2]), later.take(new[1::2]))
    protocols = (Protocol("full-shot", np.arange(items)),)
    save(
        Dataset(view.name, view.users, view.items, *parts, view.item_text, protocols, view.text_template),
        folder,
    )
