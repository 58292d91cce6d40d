"""Which row of a model's embedding is whose: the checks of ``reclm.augment``, all made before the model is touched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.errors import ReclmError, unknown
from reclm.profiles.matrix import ProfileMatrix

Missing = Literal["zeros", "plain", "error"]
MISSING: tuple[Missing, ...] = get_args(Missing)
_WITHOUT: dict[Missing, str] = {"zeros": "are fused with zeros in its place", "plain": "stay as they are"}
KINDS: tuple[ProfileKind, ...] = get_args(ProfileKind)


@dataclass(frozen=True)
class Coverage:
    """How far the profiles of one side reach.

    Attributes:
        kind, embedding: the side, and where its embedding lies in the model.
        table_rows: how many rows the embedding has.
        with_profile, without: how many of the side's users (or items) have a profile and how many have none.
        missing: what becomes of those without.
        cold, cold_without: how many are cold, and how many of these have no profile.
    """

    kind: ProfileKind
    embedding: str
    table_rows: int
    with_profile: int
    without: int
    missing: Missing
    cold: int
    cold_without: int

    def __str__(self) -> str:
        own = self.with_profile + self.without
        parts = [f"{self.embedding}: {self.with_profile} of {own} {self.kind}s have a profile"]
        if self.without:
            parts.append(f"{self.without} without {_WITHOUT[self.missing]}")
        if self.cold:
            parts.append(f"{self.cold} are cold, {self.cold_without} of them without")
        if self.table_rows > own:
            parts.append(f"{self.table_rows - own} other rows are not theirs")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Placement:
    """Users, or items, in an embedding table.

    Attributes:
        kind, path, embedding: the side, and its embedding's path in the model.
        profiles: the side's profile embeddings, ``(n, t)``.
        rows: ``(n,)`` int64, distinct: each one's row of the table.
        cold: ``(n,)`` bool, whose base embedding is masked.
    """

    kind: ProfileKind
    path: str
    embedding: nn.Embedding
    profiles: ProfileMatrix
    rows: np.ndarray
    cold: np.ndarray

    def with_profile(self) -> "Placement":
        """Only those that have a profile."""
        present = self.profiles.present
        kept = ProfileMatrix(self.profiles.vectors[present], present[present])
        return replace(self, profiles=kept, rows=self.rows[present], cold=self.cold[present])

    def coverage(self, missing: Missing) -> Coverage:
        """The counts."""
        present = self.profiles.present
        with_profile, cold = int(present.sum()), int(self.cold.sum())
        return Coverage(
            self.kind,
            self.path,
            self.embedding.num_embeddings,
            with_profile,
            len(present) - with_profile,
            missing,
            cold,
            int((self.cold & ~present).sum()),
        )


def find_embedding(model: nn.Module, path: str) -> nn.Embedding:
    """The model's embedding at a dotted path.

    Raises:
        ReclmError: if there is none, or one that cannot be augmented.
    """
    name, found = type(model).__name__, model
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, nn.Embedding):
        what = f"has no {path!r}" if found is None else f"has a {type(found).__name__} as {path!r}"
        raise ReclmError(f"{name} {what}; its embeddings: {_listed(model)}")
    if parametrize.is_parametrized(found, "weight"):
        raise ReclmError(
            f"embedding {path!r} of {name} is augmented, or parametrized, already; "
            "undo that first: reclm.remove(model), or torch.nn.utils.parametrize.remove_parametrizations"
        )
    if found.max_norm is not None:
        raise ReclmError(
            f"embedding {path!r} of {name} has max_norm={found.max_norm:g}, which rescales rows in place when they "
            "are looked up; fused rows cannot be: build the model without max_norm"
        )
    for owner, module in model.named_modules():
        for parameter, tensor in module.named_parameters(recurse=False):
            if tensor is found.weight and module is not found:
                raise ReclmError(
                    f"embedding {path!r} of {name} shares its weight with '{owner}.{parameter}', which would go "
                    "without profiles; give one of them a weight of its own"
                )
    return found


def _listed(model: nn.Module) -> str:
    found = [
        f"{path} ({one.num_embeddings} × {one.embedding_dim})"
        for path, one in model.named_modules()
        if isinstance(one, nn.Embedding)
    ]
    return ", ".join(found) or "none"


def idmap(dataset: Dataset | TrainingView, kind: ProfileKind) -> IdMap:
    """The data set's ids of a kind."""
    return dataset.users if kind == "user" else dataset.items


def check_kinds(names: Iterable[str], what: str) -> None:
    """Stop at a name that is no kind.

    Raises:
        ReclmError: naming it.
    """
    for name in names:
        if name not in KINDS:
            raise unknown(what, name, KINDS)


def cold_rows(
    cold: Literal["text"] | Mapping[ProfileKind, np.ndarray] | None,
    dataset: Dataset | TrainingView | None,
    kind: ProfileKind,
    count: int,
) -> np.ndarray:
    """Who is cold: ``(count,)`` bool.

    Args:
        cold: ``"text"`` for all without a training interaction in ``dataset``; or their rows, by kind.

    Raises:
        ReclmError: for ``"text"`` without a data set, and for rows that there are not.
    """
    mask = np.zeros(count, bool)
    if cold == "text":
        if dataset is None:
            raise ReclmError("cold='text' asks who has no training interaction; give dataset= too")
        mask[:] = True
        mask[dataset.train.user_idx if kind == "user" else dataset.train.item_idx] = False
    elif isinstance(cold, Mapping):
        check_kinds(cold, "kind of cold rows")
        mask[_checked(cold.get(kind, np.empty(0, np.int64)), count, f"cold {kind} rows")] = True
    elif cold is not None:
        raise unknown("cold=", str(cold), ["text"])
    return mask


def _checked(rows: np.ndarray, limit: int, what: str) -> np.ndarray:
    """``rows`` as int64, if they are distinct integers from 0 to ``limit - 1``."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        raise ReclmError(f"{what} must be one dimension of integers, not {rows.dtype} {rows.shape}")
    rows = rows.astype(np.int64)
    outside = rows[(rows < 0) | (rows >= limit)]
    if len(outside):
        raise ReclmError(f"{what} name row {outside[0]}; rows go from 0 to {limit - 1}")
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise ReclmError(f"{what} name row {values[counts > 1][0]} twice; each one's must be another")
    return rows


def table_rows(
    kind: ProfileKind, path: str, embedding: nn.Embedding, count: int, rows: np.ndarray | None
) -> np.ndarray:
    """Each one's row of the table, ``(count,)`` int64.

    Raises:
        ReclmError: if the table is of another size and ``rows`` does not say whose row is which, or does not fit.
    """
    size = embedding.num_embeddings
    if rows is None:
        if size < count:
            raise ReclmError(
                f"embedding {path!r} has {size} rows for {count} {kind}s; build the model for the data set's size"
            )
        if size > count:
            raise ReclmError(
                f"embedding {path!r} has {size} rows for {count} {kind}s; say whose row is which with {kind}_rows=, "
                f"e.g. np.arange({count}) where they come first or np.arange({count}) + {size - count} where last"
            )
        rows = np.arange(count)
    rows = _checked(rows, size, f"{kind}_rows")
    if len(rows) != count:
        raise ReclmError(f"{kind}_rows has {len(rows)} entries for {count} {kind}s; it needs one for each")
    if embedding.padding_idx is not None and embedding.padding_idx in rows:
        owner = int(np.flatnonzero(rows == embedding.padding_idx)[0])
        raise ReclmError(
            f"row {embedding.padding_idx} of embedding {path!r} is padding and cannot be that of {kind} {owner}; "
            f"say whose row is which with {kind}_rows="
        )
    return rows


def check_complete(placement: Placement, dataset: Dataset | TrainingView | None) -> None:
    """Stop where some have no profile.

    Raises:
        ReclmError: with how many they are, and the first of them.
    """
    without = np.flatnonzero(~placement.profiles.present)
    if len(without):
        some = without[:3]
        names = map(str, some) if dataset is None else idmap(dataset, placement.kind).ids(some)
        raise ReclmError(
            f"{len(without)} of {len(placement.rows)} {placement.kind}s have no profile, e.g. {', '.join(names)}; "
            "write them, or choose missing='zeros' (fused with zeros) or missing='plain' (left as they are)"
        )


def check_disjoint(placements: Iterable[Placement]) -> None:
    """Stop where users and items claim one row of one embedding.

    Raises:
        ReclmError: naming the row.
    """
    seen: dict[nn.Embedding, np.ndarray] = {}
    for one in placements:
        shared = np.intersect1d(one.rows, seen.get(one.embedding, np.empty(0, np.int64)))
        if len(shared):
            raise ReclmError(
                f"row {shared[0]} of embedding {one.path!r} is given to a user and to an item; "
                "user_rows= and item_rows= must name different rows"
            )
        seen[one.embedding] = one.rows
