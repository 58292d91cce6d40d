"""The rows of users and items in a model's embeddings: the checks of ``augment``, made before the model changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import BadInput, NotFound, check_type, unknown
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profiles import HOW

Missing = Literal["zeros", "plain", "error"]
MISSING: tuple[Missing, ...] = get_args(Missing)
Cold = Literal["text", "error", "zero"]
_WITHOUT: dict[Missing, str] = {"zeros": "are fused with zeros in its place", "plain": "stay as they are"}


@dataclass(frozen=True)
class Coverage:
    """Count the users (or items) of one side with a profile and without, and the cold ones among both.

    ``embedding`` is the path in the model of their embedding, ``missing`` the treatment of those without.
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
        total = self.with_profile + self.without
        parts = [f"{self.embedding}: {self.with_profile} of {total} {self.kind}s have a profile"]
        if self.without:
            parts.append(f"{self.without} without {_WITHOUT[self.missing]}")
        if self.cold:
            parts.append(f"{self.cold} are cold, {self.cold_without} of them without")
        if self.table_rows > total:
            parts.append(f"{self.table_rows - total} other rows are not theirs")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Placement:
    """Place ``n`` users, or items, in the embedding at ``path`` of a model.

    Attributes:
        rows, owners: ``(n,)`` int64, each one's row of the table, distinct, and of the data set.
        cold: ``(n,)`` bool, whether the base embedding is masked.
    """

    kind: ProfileKind
    path: str
    embedding: nn.Embedding
    profiles: ProfileMatrix
    rows: np.ndarray
    cold: np.ndarray
    owners: np.ndarray

    def with_profile(self) -> "Placement":
        """Return those that have a profile."""
        present = self.profiles.present
        profiles = ProfileMatrix(self.profiles.vectors[present], present[present])
        parts = {"rows": self.rows[present], "cold": self.cold[present], "owners": self.owners[present]}
        return replace(self, profiles=profiles, **parts)

    def coverage(self, missing: Missing) -> Coverage:
        """Return the counts."""
        present, size = self.profiles.present, self.embedding.num_embeddings
        covered, cold = int(present.sum()), int(self.cold.sum())
        bare = int((self.cold & ~present).sum())
        return Coverage(self.kind, self.path, size, covered, len(present) - covered, missing, cold, bare)


def place(
    kind: ProfileKind,
    path: str,
    embedding: nn.Embedding,
    profiles: ProfileMatrix,
    view: TrainingView | None,
    cold: Cold | Mapping[ProfileKind, np.ndarray] | None,
    ids: Sequence[Any] | None,
    rows: np.ndarray | None,
) -> Placement:
    """Return the placement of a side; the arguments are those of :func:`~reclm.fusion.augment.augment`."""
    _check_matrix(kind, profiles, view)
    is_cold = _cold_rows(cold, view, kind, len(profiles))
    owners = np.arange(len(profiles))
    if ids is not None and rows is not None:
        raise BadInput(f"give {kind}_ids= or {kind}_rows=, not both", where=f"{kind}_rows")
    if ids is not None:
        owners, rows = _rows_by_id(kind, path, ids, embedding, view)
        profiles = ProfileMatrix(profiles.vectors[owners], profiles.present[owners])
        is_cold = is_cold[owners]
    rows = _table_rows(kind, path, embedding, len(profiles), rows)
    return Placement(kind, path, embedding, profiles, rows, is_cold, owners)


_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def find_embedding(model: nn.Module, path: str) -> nn.Embedding:
    """Return the model's embedding at a dotted path; NotFound if there is none, BadInput if it cannot be augmented."""
    check_type(
        "model", model, nn.Module, "give the recommender itself, a torch.nn.Module with its embeddings"
    )
    check_type("the path of an embedding", path, str, "name it as in 'user_embedding' or 'encoder.users'")
    name, module = type(model).__name__, model
    for part in path.split("."):
        module = getattr(module, part, None)
    if not isinstance(module, nn.Embedding):
        state = f"has no {path!r}" if module is None else f"has a {type(module).__name__} as {path!r}"
        tables = {at: table for at, table in model.named_modules() if isinstance(table, nn.Embedding)}
        sizes = (f"{at} ({table.num_embeddings} × {table.embedding_dim})" for at, table in tables.items())
        message = f"{name} {state}; its embeddings: {', '.join(sizes) or 'none'}"
        raise NotFound(message, value=path, where=name)
    if parametrize.is_parametrized(module, "weight"):
        raise BadInput(
            f"embedding {path!r} of {name} is augmented, or parametrized, already; "
            "undo that first: reclm.remove(model), or torch.nn.utils.parametrize.remove_parametrizations"
        )
    if module.max_norm is not None:
        raise BadInput(
            f"embedding {path!r} of {name} has max_norm={module.max_norm:g}, which rescales rows in place when they "
            "are looked up; fused rows cannot be: build the model without max_norm"
        )
    weight = module.weight
    if weight.is_meta or weight.dtype not in _TYPES:
        held = "has no values (device meta)" if weight.is_meta else f"is of type {weight.dtype}"
        message = (
            f"embedding {path!r} of {name} {held}; load it as float32, float16, bfloat16 or float64 first"
        )
        raise BadInput(message, value=str(weight.dtype), where=path)
    if broken := int((~weight.detach().isfinite().all(dim=1)).sum()):
        message = f"{broken} rows of the embedding {path!r} of {name} are nan or infinite; give a model that is whole"
        raise BadInput(message, value=broken, where=path)
    for at, owner in model.named_modules():
        for parameter, tensor in owner.named_parameters(recurse=False):
            if tensor is module.weight and owner is not module:
                raise BadInput(
                    f"embedding {path!r} of {name} shares its weight with '{at}.{parameter}', which would go "
                    "without profiles; give one of them a weight of its own"
                )
    return module


def check_kinds(names: Iterable[str], what: str) -> None:
    """Raise NotFound for a name that is not a kind."""
    for name in names:
        if name not in get_args(ProfileKind):
            raise unknown(what, name, get_args(ProfileKind))


def _check_matrix(kind: ProfileKind, matrix: ProfileMatrix, view: TrainingView | None) -> None:
    """Check that somebody has a profile, that profiles go by the data set's rows, and that they are finite."""
    check_type(f"profiles of {kind}s", matrix, ProfileMatrix, HOW)
    if not matrix.present.any():
        remedy = f"{kind}s=None"
        message = (
            f"no {kind} of the data set has a profile; write some, or augment the other side alone: {remedy}"
        )
        raise NotFound(message, value=kind, remedy=remedy)
    if view is not None and len(matrix) != len(view.idmap(kind)):
        message = (
            f"{kind} profiles have {len(matrix)} rows, the data set {len(view.idmap(kind))} {kind}s; they must go by "
            "the data set's rows"
        )
        raise BadInput(message, value=len(matrix), where=kind)
    broken = np.flatnonzero(matrix.present & ~np.isfinite(matrix.vectors).all(axis=1))
    if len(broken):
        message = f"{kind} profiles are not finite in row {broken[0]}; encode that profile again"
        raise BadInput(message, value=int(broken[0]), where=kind)


def _cold_rows(
    cold: Cold | Mapping[ProfileKind, np.ndarray] | None,
    view: TrainingView | None,
    kind: ProfileKind,
    count: int,
) -> np.ndarray:
    """Return whether each user (or item) of the data set is cold, ``(count,)`` bool."""
    mask = np.zeros(count, bool)
    if isinstance(cold, Mapping):
        check_kinds(cold, "kind of cold rows")
        mask[_checked(cold.get(kind, np.empty(0, np.int64)), count, f"cold {kind} rows")] = True
    elif cold in get_args(Cold):
        if view is None:
            message = f"cold={cold!r} asks who has no training interaction; give data=, too, or cold=None"
            raise BadInput(message, value=cold)
        mask[:] = True
        mask[view.train.user_idx if kind == "user" else view.train.item_idx] = False
    elif cold is not None:
        raise unknown("cold=", str(cold), get_args(Cold))
    return mask


def _checked(rows: np.ndarray, limit: int, what: str) -> np.ndarray:
    """Return ``rows`` as int64, if they are distinct integers from 0 to ``limit - 1``."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        message = f"{what} must be one dimension of integers, not {rows.dtype} {rows.shape}"
        raise BadInput(message, value=rows.shape, where=what)
    rows = rows.astype(np.int64)
    outside = rows[(rows < 0) | (rows >= limit)]
    if len(outside):
        message = f"{what} name row {outside[0]}; rows go from 0 to {limit - 1}"
        raise BadInput(message, value=int(outside[0]), where=what)
    twice = _repeated(rows)
    if len(twice):
        message = f"{what} name row {twice[0]} twice; rows must be distinct"
        raise BadInput(message, value=int(twice[0]), where=what)
    return rows


def _repeated(values: np.ndarray) -> np.ndarray:
    """Return the values that occur more than once."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1]


def _rows_by_id(
    kind: ProfileKind, path: str, ids: Sequence[Any], embedding: nn.Embedding, view: TrainingView | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the data set's rows of the users (items) in a table, and their rows there, two ``(n,)`` int64."""
    what = f"{kind}_ids"
    if view is None:
        raise BadInput(f"{what} go with the ids of a data set; give data=, too, or {kind}_rows=", where=what)
    ids = list(ids)  # a series of pandas goes by its labels, not by its order
    if len(ids) != embedding.num_embeddings:
        message = (
            f"{what} has {len(ids)} entries and embedding {path!r} {embedding.num_embeddings} rows; give an id for "
            "each row, None for a row that is nobody's"
        )
        raise BadInput(message, value=len(ids), where=what)
    rows = np.array([row for row, id in enumerate(ids) if id is not None], np.int64)
    owners = view.idmap(kind).find([ids[row] for row in rows])
    rows, owners = rows[owners >= 0], owners[owners >= 0]
    twice = next(iter(view.idmap(kind).ids(_repeated(owners)[:1])), None)
    if twice is not None or not len(owners):
        fault = f"names {twice!r} twice" if len(owners) else f"has no {kind} of data set {view.name!r}"
        raise BadInput(f"{what} {fault}; give each row's own id", value=twice, where=what)
    return owners, rows


def _table_rows(
    kind: ProfileKind, path: str, embedding: nn.Embedding, count: int, rows: np.ndarray | None
) -> np.ndarray:
    """Return each user's (item's) row of the table, ``(count,)`` int64."""
    size = embedding.num_embeddings
    if rows is None:
        state = f"embedding {path!r} has {size} rows for {count} {kind}s"
        if size < count:
            raise BadInput(f"{state}; build the model for the data set's size")
        if size > count:
            raise BadInput(
                f"{state}; give {kind}_ids=, an id for each row, or {kind}_rows=, as np.arange({count}) where they "
                f"come first or np.arange({count}) + {size - count} where last"
            )
        rows = np.arange(count)
    rows = _checked(rows, size, f"{kind}_rows")
    if len(rows) != count:
        raise BadInput(f"{kind}_rows has {len(rows)} entries for {count} {kind}s; it needs one for each")
    if embedding.padding_idx is not None and embedding.padding_idx in rows:
        owner = int(np.flatnonzero(rows == embedding.padding_idx)[0])
        raise BadInput(
            f"row {embedding.padding_idx} of embedding {path!r} is padding and cannot be that of {kind} {owner}; "
            f"give each {kind}'s row with {kind}_rows="
        )
    return rows


def check_complete(placement: Placement, view: TrainingView | None, among: np.ndarray) -> None:
    """Check that all users (items) ``among`` ``(n,)`` bool have a profile."""
    without = placement.owners[~placement.profiles.present & among]
    if len(without):
        first = without[:3]
        names = map(str, first if view is None else view.idmap(placement.kind).ids(first))
        raise BadInput(
            f"{len(without)} of {len(placement.rows)} {placement.kind}s have no profile, e.g. {', '.join(names)}; "
            "write them, or choose missing='zeros' (fused with zeros) or missing='plain' (left as they are)"
        )


def check_disjoint(placements: Iterable[Placement]) -> None:
    """Check that users and items have no row of one embedding in common."""
    taken: dict[nn.Embedding, np.ndarray] = {}
    for placement in placements:
        shared = np.intersect1d(placement.rows, taken.get(placement.embedding, np.empty(0, np.int64)))
        if len(shared):
            raise BadInput(
                f"row {shared[0]} of embedding {placement.path!r} is given to a user and to an item; "
                "user_rows= and item_rows= must name different rows"
            )
        taken[placement.embedding] = placement.rows
