"""The rows of users and items in a model's embeddings: the checks of ``augment``, made before the model changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, NotFound, unknown
from reclm.profiles.matrix import ProfileMatrix

Missing = Literal["zeros", "plain", "error"]
MISSING: tuple[Missing, ...] = get_args(Missing)
Cold = Literal["text", "error", "zero"]
_WITHOUT: dict[Missing, str] = {"zeros": "are fused with zeros in its place", "plain": "stay as they are"}
KINDS: tuple[ProfileKind, ...] = get_args(ProfileKind)


@dataclass(frozen=True)
class Coverage:
    """Count the users (or items) of one side with a profile and without.

    Attributes:
        kind, embedding: the side, and the path of its embedding in the model.
        table_rows: number of rows of the embedding.
        with_profile, without: numbers of users (or items) with a profile and without.
        missing: treatment of those without.
        cold, cold_without: numbers of cold ones, and of those of them without a profile.
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
    """Place users, or items, in an embedding table.

    Attributes:
        kind, path, embedding: the side, and its embedding's path in the model.
        profiles: the side's profile embeddings, ``(n, t)``.
        rows: ``(n,)`` int64, distinct: each one's row of the table.
        cold: ``(n,)`` bool, whether the base embedding is masked.
        owners: ``(n,)`` int64, the data set's rows of the same users (items).
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
    """Return the model's embedding at a dotted path.

    Raises:
        NotFound: if there is none.
        BadInput: if it cannot be augmented.
    """
    name, module = type(model).__name__, model
    for part in path.split("."):
        module = getattr(module, part, None)
    if not isinstance(module, nn.Embedding):
        state = f"has no {path!r}" if module is None else f"has a {type(module).__name__} as {path!r}"
        raise NotFound(f"{name} {state}; its embeddings: {_listed(model)}", value=path, where=name)
    found = module
    if parametrize.is_parametrized(found, "weight"):
        raise BadInput(
            f"embedding {path!r} of {name} is augmented, or parametrized, already; "
            "undo that first: reclm.remove(model), or torch.nn.utils.parametrize.remove_parametrizations"
        )
    if found.max_norm is not None:
        raise BadInput(
            f"embedding {path!r} of {name} has max_norm={found.max_norm:g}, which rescales rows in place when they "
            "are looked up; fused rows cannot be: build the model without max_norm"
        )
    for owner, module in model.named_modules():
        for parameter, tensor in module.named_parameters(recurse=False):
            if tensor is found.weight and module is not found:
                raise BadInput(
                    f"embedding {path!r} of {name} shares its weight with '{owner}.{parameter}', which would go "
                    "without profiles; give one of them a weight of its own"
                )
    return found


def _listed(model: nn.Module) -> str:
    listed = [
        f"{path} ({module.num_embeddings} × {module.embedding_dim})"
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    return ", ".join(listed) or "none"


def idmap(dataset: Dataset | TrainingView, kind: ProfileKind) -> IdMap:
    """Return the data set's ids of a kind."""
    return dataset.users if kind == "user" else dataset.items


def check_kinds(names: Iterable[str], what: str) -> None:
    """Check that names are kinds.

    Raises:
        NotFound: for one that is not.
    """
    for name in names:
        if name not in KINDS:
            raise unknown(what, name, KINDS)


def check_matrix(kind: ProfileKind, matrix: ProfileMatrix, view: Dataset | TrainingView | None) -> None:
    """Check that somebody has a profile, that profiles go by the data set's rows, and that they are finite.

    Raises:
        NotFound: if nobody has a profile.
        BadInput: for another number of rows than the data set's, or a vector that is not finite.
    """
    if not matrix.present.any():
        raise NotFound(
            f"no {kind} of the data set has a profile; write some, or augment the other side alone: {kind}s=None",
            value=kind,
            remedy=f"{kind}s=None",
        )
    if view is not None and len(matrix) != len(idmap(view, kind)):
        raise BadInput(
            f"{kind} profiles have {len(matrix)} rows, the data set {len(idmap(view, kind))} {kind}s; "
            "they must go by the data set's rows",
            value=len(matrix),
            where=kind,
        )
    broken = np.flatnonzero(matrix.present & ~np.isfinite(matrix.vectors).all(axis=1))
    if len(broken):
        message = f"{kind} profiles are not finite in row {broken[0]}; encode that profile again"
        raise BadInput(message, value=int(broken[0]), where=kind)


def cold_rows(
    cold: Cold | Mapping[ProfileKind, np.ndarray] | None,
    view: Dataset | TrainingView | None,
    kind: ProfileKind,
    count: int,
) -> np.ndarray:
    """Return which users (or items) of the data set are cold, ``(count,)`` bool.

    Args:
        cold: a treatment, for all without a training interaction in ``view``; or their rows, by kind.

    Raises:
        BadInput: for a treatment without a data set, and for rows that there are not.
    """
    mask = np.zeros(count, bool)
    if isinstance(cold, Mapping):
        check_kinds(cold, "kind of cold rows")
        mask[_checked(cold.get(kind, np.empty(0, np.int64)), count, f"cold {kind} rows")] = True
    elif cold in get_args(Cold):
        if view is None:
            raise BadInput(
                f"cold={cold!r} asks who has no training interaction; give data=, too, or cold=None",
                value=cold,
            )
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
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        twice = int(values[counts > 1][0])
        raise BadInput(f"{what} name row {twice} twice; rows must be distinct", value=twice, where=what)
    return rows


def rows_by_id(
    kind: ProfileKind,
    path: str,
    ids: Sequence[Any],
    embedding: nn.Embedding,
    view: Dataset | TrainingView | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the data set's rows of the users (items) in a table, and their rows there, two ``(n,)`` int64.

    Args:
        ids: for each row of the table an id; None, or one that the data set lacks, for a row that is nobody's.

    Raises:
        BadInput: for another number of ids than rows, an id twice, or no id of the data set.
    """
    what = f"{kind}_ids"
    if view is None:
        raise BadInput(f"{what} go with the ids of a data set; give data=, too, or {kind}_rows=", where=what)
    if len(ids) != embedding.num_embeddings:
        raise BadInput(
            f"{what} has {len(ids)} entries and embedding {path!r} {embedding.num_embeddings} rows; give an id for "
            "each row, None for a row that is nobody's",
            value=len(ids),
            where=what,
        )
    places = np.array([place for place, id in enumerate(ids) if id is not None], np.int64)
    owners = idmap(view, kind).find([ids[place] for place in places])
    places, owners = places[owners >= 0], owners[owners >= 0]
    values, counts = np.unique(owners, return_counts=True)
    if not len(owners) or (counts > 1).any():
        twice = next(iter(idmap(view, kind).ids(values[counts > 1][:1])), None)
        fault = f"names {twice!r} twice" if twice is not None else f"has no {kind} of data set {view.name!r}"
        raise BadInput(f"{what} {fault}; give each row's own id", value=twice, where=what)
    return owners, places


def table_rows(
    kind: ProfileKind, path: str, embedding: nn.Embedding, count: int, rows: np.ndarray | None
) -> np.ndarray:
    """Return each user's (item's) row of the table, ``(count,)`` int64.

    Raises:
        BadInput: if the table is of another size and ``rows`` does not say which row is whose, or does not fit.
    """
    size = embedding.num_embeddings
    if rows is None:
        if size < count:
            raise BadInput(
                f"embedding {path!r} has {size} rows for {count} {kind}s; build the model for the data set's size"
            )
        if size > count:
            raise BadInput(
                f"embedding {path!r} has {size} rows for {count} {kind}s; give {kind}_ids=, an id for each row, "
                f"or {kind}_rows=, as np.arange({count}) where they come first or np.arange({count}) + {size - count} "
                "where last"
            )
        rows = np.arange(count)
    rows = _checked(rows, size, f"{kind}_rows")
    if len(rows) != count:
        raise BadInput(f"{kind}_rows has {len(rows)} entries for {count} {kind}s; it needs one for each")
    if embedding.padding_idx is not None and embedding.padding_idx in rows:
        owner = int(np.flatnonzero(rows == embedding.padding_idx)[0])
        raise BadInput(
            f"row {embedding.padding_idx} of embedding {path!r} is padding and cannot be that of {kind} {owner}; "
            f"say whose row is which with {kind}_rows="
        )
    return rows


def check_complete(placement: Placement, view: Dataset | TrainingView | None, cold: bool = False) -> None:
    """Check that all, or all cold ones, have a profile.

    Raises:
        BadInput: with the number of those without, and the first of them.
    """
    without = placement.owners[~placement.profiles.present & (placement.cold | (not cold))]
    if len(without):
        some = without[:3]
        names = map(str, some if view is None else idmap(view, placement.kind).ids(some))
        raise BadInput(
            f"{len(without)} of {len(placement.rows)} {placement.kind}s have no profile, e.g. {', '.join(names)}; "
            "write them, or choose missing='zeros' (fused with zeros) or missing='plain' (left as they are)"
        )


def check_disjoint(placements: Iterable[Placement]) -> None:
    """Check that users and items have no row of one embedding in common.

    Raises:
        BadInput: naming the row.
    """
    seen: dict[nn.Embedding, np.ndarray] = {}
    for placement in placements:
        shared = np.intersect1d(placement.rows, seen.get(placement.embedding, np.empty(0, np.int64)))
        if len(shared):
            raise BadInput(
                f"row {shared[0]} of embedding {placement.path!r} is given to a user and to an item; "
                "user_rows= and item_rows= must name different rows"
            )
        seen[placement.embedding] = placement.rows
