"""The ranker of items by the cosine of their text to a profile, and profile texts for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

    An item without text (zeros in ``item_text``) ranks after all others. Items of equal scores stand in a random order
    drawn from ``generator``, the same for everybody: the order of the rows may tell of popularity. Both come from an
    ``offset`` ``(I,)`` of the cosine: less than :data:`TIE`, plus :data:`NO_TEXT` where there is no text.
    """

    text: Tensor
    offset: Tensor

    def __init__(self, item_text: np.ndarray, generator: torch.Generator) -> None:
        super().__init__()
        if not item_text.any():
            raise NotFound("no item has a text to rank by", where="item_text")
        vectors = item_vectors(torch.from_numpy(np.asarray(item_text, np.float32)), generator)
        self.register_buffer("text", vectors[:, :-1].contiguous(), persistent=False)
        self.register_buffer("offset", vectors[:, -1].clone())  # drawn, so it belongs to what is saved

    @property
    def items(self) -> Tensor:
        """The items' factor of the score, ``(I, t + 1)``: texts of length one, and the offset."""
        return torch.cat([self.text, self.offset[:, None]], dim=1)

    def profiles(self, vectors: np.ndarray | Tensor) -> Tensor:
        """Return the factor ``(n, t + 1)`` of profiles ``(n, t)``: of length one, and 1; zeros rank by chance."""
        vectors = torch.as_tensor(vectors, dtype=torch.float32)
        width = self.text.shape[1]
        if vectors.shape[1] != width:
            message = f"profiles are vectors of {vectors.shape[1]} and item texts of {width}"
            remedy = "encode both with the same encoder"
            raise BadInput(f"{message}; {remedy}", value=vectors.shape[1], where="profiles", remedy=remedy)
        return torch.cat([F.normalize(vectors, dim=-1), torch.ones(len(vectors), 1)], dim=1)

    def scores(self, vectors: np.ndarray | Tensor) -> Tensor:
        """Return the scores ``(n, I)`` of profile vectors ``(n, t)``."""
        return self.profiles(vectors) @ self.items.T


def item_vectors(text: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``(n, t + 1)`` of item texts ``(n, t)``, as :attr:`TextRanker.items`."""
    offset = TIE * torch.rand(len(text), generator=generator) + torch.where(text.any(dim=1), 0.0, NO_TEXT)
    return torch.cat([F.normalize(text, dim=-1), offset[:, None]], dim=1)


class TextProfiles:
    """Profile texts of some users that lie in no store, as :func:`reclm.recommend.fit.fit` takes them."""

    def __init__(self, data: Dataset, texts: Mapping[str, str], encoder: "TextEncoder") -> None:
        self.encoder, self.fingerprint = encoder, data.fingerprint
        self._data, self._texts = data, texts

    def get(self, id: Any, kind: ProfileKind = "user") -> Profile:
        """Return the profile of a user; NotFound if it has none."""
        if kind != "user" or str(id) not in self._texts:
            raise NotFound(f"no profile of {kind} {id!r}", value=id)
        return Profile("user", str(id), self._texts[str(id)], "", "")

    def matrix(self, kind: ProfileKind) -> ProfileMatrix:
        """Return the embeddings of all users in row order of the data set; of items there are none."""
        texts = self._texts if kind == "user" else {}
        idmap = self._data.users if kind == "user" else self._data.items
        return ProfileMatrix.from_rows(list(texts), self.encoder.encode(list(texts.values())), idmap)


class UserProfile(NamedTuple):
    """A user's profile and its writer; ``store`` is the folder it lies in, None if it was written now."""

    text: str
    writer: str
    store: Path | None


def stored_profiles(
    data: Dataset, profiler: str = "zero-shot", *, encoder: str | None = None, **options: Any
) -> Profiles:
    """Return the profiles of users that a profiler (:func:`open_profiler`) wrote into the workspace, or NotFound."""
    folder = current().store(data.name, open_profiler(profiler, **options)[1])
    if not ProfileStore.at(folder):
        raise no_profiles(data.name, f" --profiler {profiler}")
    return Profiles.open(folder, data, kinds=("user",), encoder=encoder)


def no_profiles(dataset: str, writer: str = "") -> NotFound:
    """Return the error that no user has a stored profile."""
    command = f"reclm profile --dataset {dataset}{writer} --kind user"
    message = f"no user of data set {dataset!r} has a stored profile by this profiler; write some: {command}"
    return NotFound(message, value=dataset, remedy=command)


def user_profile(data: Dataset, user: Any, profiler: str = "zero-shot", **options: Any) -> UserProfile:
    """Return the stored profile of a user of the data set, else one that is written now and not stored.

    The profiler is opened by :func:`open_profiler`; NotFound if it finds nothing to write from.
    """
    user, view = str(user), data.view()
    row = rows_of(data.users, [user], data.name)
    opened, writer = open_profiler(profiler, **options)
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
