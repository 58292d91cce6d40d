"""Controls: vectors in place of a profiler's profiles, to tell whether it is their words that help.

Each control keeps who has a profile and changes what it says. A gain that a control has too is no gain of the text:
the fusion's parameters, the presence of a profile or plain text features made it.
"""

from typing import Literal, get_args

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import NotFound
from reclm.profiles.matrix import ProfileMatrix

Control = Literal["shuffled", "random", "text", "keywords"]
"""
- ``shuffled``: the same texts, given to the wrong users (items);
- ``random``: vectors of random direction, each as long as the profile's;
- ``text``: no language model: a user has the mean of its history's item-text embeddings, an item its own text twice;
- ``keywords``: profiles by the keywords profiler (:mod:`reclm.profilers.keywords`).
"""

CONTROLS: tuple[Control, ...] = get_args(Control)


def controlled(
    control: Control,
    kind: ProfileKind,
    profiles: ProfileMatrix,
    view: TrainingView,
    item_text: np.ndarray | None,
    keywords: ProfileMatrix | None,
) -> ProfileMatrix:
    """Return the vectors of a control for those who have one of ``profiles``.

    Args:
        profiles: ``(n, t)`` of users or items, as ``kind`` says.
        view: the training part.
        item_text: ``(I, t)`` embeddings of the items' texts, for ``text``.
        keywords: the keywords profiler's profiles, embedded, for ``keywords``.

    Raises:
        NotFound: for ``text`` where the items have none.
    """
    present = profiles.present
    vectors = np.zeros_like(profiles.vectors)
    rng = np.random.default_rng(0)
    if control == "shuffled":
        rows = np.flatnonzero(present)
        vectors[rows] = profiles.vectors[_deranged(rows, rng)]
    elif control == "random":
        noise = rng.standard_normal((int(present.sum()), vectors.shape[1]), np.float32)
        lengths = np.linalg.norm(profiles.vectors[present], axis=1, keepdims=True)
        vectors[present] = noise / np.linalg.norm(noise, axis=1, keepdims=True) * lengths
    elif control == "text":
        if item_text is None:
            raise NotFound(f"data set {view.name!r} has no item text, which the control 'text' is made of")
        vectors[:] = item_text if kind == "item" else _history_means(view, item_text)
        vectors[~present] = 0
    else:
        assert keywords is not None
        present = present & keywords.present
        vectors[present] = keywords.vectors[present]
    return ProfileMatrix(vectors, present)


def _deranged(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the rows in an order in which none stands at its own place, where there is more than one."""
    order = rng.permutation(len(rows))
    shuffled = np.empty_like(rows)
    shuffled[order] = rows[np.roll(order, 1)]  # each gets its neighbour's in a random circle
    return shuffled


def _history_means(view: TrainingView, item_text: np.ndarray) -> np.ndarray:
    """Return ``(U, t)`` means over each user's training interactions; zero where there is none."""
    import scipy.sparse as sp  # slow to import, and only this control needs it

    users, items = view.train.user_idx, view.train.item_idx
    counts = np.bincount(users, minlength=len(view.users))
    weights = (1.0 / counts[users]).astype(np.float32)
    return np.asarray(
        sp.csr_array((weights, (users, items)), shape=(len(view.users), len(item_text))) @ item_text,
        np.float32,
    )
