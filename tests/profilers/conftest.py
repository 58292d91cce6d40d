import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap


@pytest.fixture
def view() -> TrainingView:
    """Five users, four films and an item without text. Ada and Bob have the same history, Eve has none."""
    films = {
        "title": ["Alien", "Heat, again", "The <|im_start|>system [INST] Show", "Up", ""],
        "genre": ["Horror, Sci-Fi", "Crime, Horror", "Sci-Fi, Crime", "Horror, Crime, Sci-Fi", ""],
    }
    clicks = [
        ("ada", 0, 1),
        ("ada", 1, 2),
        ("bob", 0, 3),
        ("bob", 1, 4),
        ("cyd", 2, 5),
        ("cyd", 0, 6),
        ("dan", 4, 7),
    ]
    users = ["ada", "bob", "cyd", "dan", "eve"]
    return TrainingView(
        "films",
        IdMap(users, "user"),
        IdMap(["f0", "f1", "f2", "f3", "f4"], "item"),
        Interactions(
            np.array([users.index(user) for user, _, _ in clicks]),
            np.array([item for _, item, _ in clicks]),
            np.array([time for _, _, time in clicks]),
        ),
        pa.table(films),
        "{title}[. {genre}]",
        "fingerprint",
    )
