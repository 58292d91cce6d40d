"""The one ranker by text, the cosine of an item's text to a profile, and the profile texts it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.data.dataset import Dataset, ProfileKind
from reclm.errors import BadInput, NotFound
from reclm.folders import current
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import open_profiler
from reclm.recommend.serve import rows_of

if TYPE_CHECKING:
    from reclm.text.encoder import TextEncoder

TIE = 1e-6
"""Cosines that differ by no more count as equal."""
NO_TEXT = -2.0
"""Score of an item without text: below every cosine."""


class TextRanker(nn.Module):
    """Rank items by ``cos(p, f_v)``, the cosine of a profile ``p`` and the item's text ``f_v``.

    An item without text ranks after all items with text. Items of equal scores stand in a random order, the same for
    everybody: the order of the rows may tell of popularity.

    Args:
        item_text: ``(I, t)``, zeros for an item without text.
        generator: of the order of ties.

    Attributes:
        offset: ``(I,)``, added to the cosine: less than :data:`TIE`, plus :data:`NO_TEXT` where there is no text.
        has_text: ``(I,)`` bool.

    Raises:
        NotFound: if no item has a text.
    """

    text: Tensor
    offset: Tensor

    def __init__(self, item_text: np.ndarray, generator: torch.Generator) -> None:
        super().__init__()
        self.has_text = torch.from_numpy(item_text.any(axis=1))
        if not self.has_text.any():
            raise NotFound("no item has a text to rank by", where="item_text")
        vectors = item_vectors(torch.from_numpy(np.asarray(item_text, np.float32)), generator)
        self.register_buffer("text", vectors[:, :-1].contiguous(), persistent=False)
        self.register_buffer("offset", vectors[:, -1].clone())  # drawn, so it belongs to what is saved

    @property
    def items(self) -> Tensor:
        """The items' side of the score, ``(I, t + 1)``: texts of length one, and the offset."""
        return torch.cat([self.text, self.offset[:, None]], dim=1)

    def profiles(self, vectors: np.ndarray | Tensor) -> Tensor:
        """Return ``(n, t + 1)`` of profile vectors ``(n, t)``: of length one, and 1; a vector of zeros ranks by chance.

        Raises:
            BadInput: if profiles and items are not vectors of one encoder.
        """
        vectors = torch.as_tensor(vectors, dtype=torch.float32)
        width = self.text.shape[1]
        if vectors.shape[1] != width:
            raise BadInput(
                f"profiles are vectors of {vectors.shape[1]} and item texts of {width}; encode both with the same "
                "encoder",
                value=vectors.shape[1],
                where="profiles",
            )
        return torch.cat([F.normalize(vectors, dim=-1), torch.ones(len(vectors), 1)], dim=1)

    def scores(self, vectors: np.ndarray | Tensor) -> Tensor:
        """Return the scores ``(n, I)`` of profile vectors ``(n, t)``."""
        return self.profiles(vectors) @ self.items.T


def item_vectors(text: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``(n, t + 1)`` of item texts ``(n, t)``, as :attr:`TextRanker.items`."""
    offset = TIE * torch.rand(len(text), generator=generator) + torch.where(text.any(dim=1), 0.0, NO_TEXT)
    return torch.cat([F.normalize(text, dim=-1), offset[:, None]], dim=1)


class TextProfiles:
    """Profile texts of some users that lie in no store, as :func:`reclm.recommend.fit.fit` takes them.

    Attributes:
        encoder: of the texts.
        fingerprint: of the data set.
    """

    def __init__(self, data: Dataset, texts: Mapping[str, str], encoder: "TextEncoder") -> None:
        self.encoder, self.fingerprint = encoder, data.fingerprint
        self._data, self._texts = data, texts

    def get(self, id: Any, kind: ProfileKind = "user") -> Profile:
        """Return the profile of a user.

        Raises:
            NotFound: if it has none.
        """
        if kind != "user" or str(id) not in self._texts:
            raise NotFound(f"no profile of {kind} {id!r}", value=id)
        return Profile("user", str(id), self._texts[str(id)], "", "")

    def matrix(self, kind: ProfileKind) -> ProfileMatrix:
        """Return the embeddings of all users in row order of the data set; of items there are none."""
        ids = list(self._texts) if kind == "user" else []
        vectors = self.encoder.encode([self._texts[id] for id in ids])
        return ProfileMatrix.from_rows(ids, vectors, self._data.users if kind == "user" else self._data.items)


@dataclass(frozen=True)
class UserProfile:
    """A user's profile and its writer; ``store`` is the folder it lies in, None if it was written now."""

    text: str
    writer: str
    store: Path | None


def stored_profiles(
    data: Dataset,
    profiler: str = "zero-shot",
    *,
    model: str | None = None,
    engine: str | None = None,
    adapter: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    encoder: str | None = None,
) -> Profiles:
    """Return the profiles of users that a profiler wrote into the workspace.

    Raises:
        NotFound: if there are none.
    """
    writer = open_profiler(profiler, settings, model, engine, adapter)[1]
    folder = current().store(data.name, writer)
    if ProfileStore.at(folder):
        return Profiles.open(folder, data, kinds=("user",), encoder=encoder)
    raise no_profiles(data.name, f" --profiler {profiler}" + f" --adapter {adapter}" * bool(adapter))


def no_profiles(dataset: str, writer: str = "") -> NotFound:
    """Return the error that no user has a stored profile."""
    command = f"reclm profile --dataset {dataset}{writer} --kind user"
    return NotFound(
        f"no user of data set {dataset!r} has a stored profile by this profiler; write some: {command}",
        value=dataset,
        remedy=command,
    )


def user_profile(
    data: Dataset,
    user: Any,
    profiler: str = "zero-shot",
    *,
    model: str | None = None,
    engine: str | None = None,
    adapter: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> UserProfile:
    """Return the stored profile of a user of the data set, else one that is written now and not stored.

    Args:
        profiler, model, engine, adapter, settings: as in :func:`reclm.profiles.write.open_profiler`.

    Raises:
        NotFound: if the profiler finds nothing to write from.
    """
    user, view = str(user), data.view()
    row = rows_of(data.users, [user], data.name)
    opened, writer = open_profiler(profiler, settings, model, engine, adapter)
    folder = current().store(view.name, writer)
    store = ProfileStore.open(folder, view.fingerprint, writer) if ProfileStore.at(folder) else None
    if store and (stored := store.get("user", user)):
        return UserProfile(stored.text, writer, store.folder)
    known: dict[ProfileKind, dict[str, str]] = {"user": store.texts("user") if store else {}}
    subjects = opened.fit(view).subjects(view, "user", row, known)
    written = next(iter(opened.write(list(subjects))), None)
    if written is None or not written.text.strip():
        message = f"profiler {profiler!r} has nothing to say of user {user!r}; name another user"
        raise NotFound(message, value=user, where=profiler)
    return UserProfile(written.text, writer, None)
