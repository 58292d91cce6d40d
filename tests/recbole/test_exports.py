"""Profiles exported for RecBole are read back by its own loader."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reclm.data.dataset import Dataset
from reclm.data.readers.recbole import write_atomic
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.recbole.compat import as_a_library, patch


class Sines:
    """Vectors of many digits that depend on the text's length."""

    name, dim = "sines", 4

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        return np.sin(
            np.array([[len(text) * (place + 1) for place in range(4)] for text in texts], np.float32)
        )


def test_useremb_and_itememb(
    dataset: Dataset, settings: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    patch()
    from recbole.config import Config
    from recbole.data import create_dataset

    texts = {
        "user": {f"u{row}": "x" * (row + 1) for row in range(20)},  # four have none
        "item": {f"i{row}": "y" * (row + 7) for row in range(20)},
    }
    with ProfileStore.open(tmp_path / "store", dataset.fingerprint, "test", "boards") as store:
        for kind, profiles in texts.items():
            store.add([Profile(kind, id, text, "h", "m") for id, text in profiles.items()])  # pyright: ignore[reportArgumentType]
    files = tmp_path / "data" / "boards"
    write_atomic(dataset, files)
    profiles = Profiles.open(store.folder, encoder=Sines())  # pyright: ignore[reportArgumentType]
    profiles.export(tmp_path / "export", "recbole")
    for name in ("boards.useremb", "boards.itememb"):
        (tmp_path / "export" / name).rename(files / name)
    theirs = settings("BPR") | {
        "data_path": str(tmp_path / "data"),
        "benchmark_filename": ["train", "valid", "test"],
    }
    assert set(yaml.safe_load((tmp_path / "export" / "recbole.yaml").read_text())["load_col"]) == {
        "inter",
        "useremb",
        "itememb",
    }
    with as_a_library(tmp_path):
        config = Config("BPR", "boards", [str(tmp_path / "export" / "recbole.yaml")], theirs)
        data = create_dataset(config)
    for kind, field, alias in (("user", "user_id", "uid"), ("item", "item_id", "iid")):
        matrix = data.get_preload_weight(alias)
        ids = list(texts[kind])
        rows = [data.field2token_id[field][id] for id in ids]
        expected = Sines().encode([texts[kind][id] for id in ids])
        assert np.array_equal(matrix[rows].astype(np.float32), expected)
        others = np.setdiff1d(np.arange(len(matrix)), rows)
        assert not matrix[others].any()  # padding, and who has no profile
    assert len(data.get_preload_weight("uid")) == 25
