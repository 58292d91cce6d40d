"""Profiles for a recommender that is not ours: any ``nn.Module`` with its users and items in ``nn.Embedding``."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.errors import ReclmError, unknown
from reclm.fusion.dual_mlp import DualMLP
from reclm.fusion.parametrization import FusedSide, FusedTable, attach, detach, fused_table
from reclm.fusion.rows import (
    MISSING,
    Coverage,
    Missing,
    Placement,
    check_complete,
    check_disjoint,
    check_kinds,
    cold_rows,
    find_embedding,
    idmap,
    table_rows,
)
from reclm.profiles.matrix import ProfileMatrix

if TYPE_CHECKING:
    from reclm.profiles.store import ProfileStore
    from reclm.text.encoder import TextEncoder

Side = Literal["user", "item", "both"]


class Augmented:
    """A model that is augmented, as a handle: what was done, and how to undo it.

    It holds nothing but the model, so that ``Augmented(copy.deepcopy(model))`` is the handle of a copy.

    Attributes:
        model: the model.
        tables: the embeddings that are augmented, by their path in the model.

    Raises:
        ReclmError: if the model is not augmented.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tables: dict[str, nn.Embedding] = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, nn.Embedding) and fused_table(module) is not None
        }
        if not self.tables:
            raise ReclmError(f"{type(model).__name__} is not augmented; call reclm.augment(model, ...) first")

    @property
    def fusions(self) -> list[FusedTable]:
        """The parametrizations, one an embedding."""
        return [table for module in self.tables.values() if (table := fused_table(module)) is not None]

    @property
    def coverage(self) -> list[Coverage]:
        """How far the profiles reach, for each side in each embedding."""
        return [one for table in self.fusions for one in table.coverage.values()]

    def __str__(self) -> str:
        return "\n".join(map(str, self.coverage))

    def parameters(self) -> list[nn.Parameter]:
        """What augmentation added: the weights of the dual MLP (and gates).

        ``model.parameters()`` has them too; an optimiser made before needs ``add_param_group``.
        """
        return list(nn.ModuleList(self.fusions).parameters())

    @property
    def enabled(self) -> bool:
        """Whether profiles are fused; where not, the model computes to the bit what it did before."""
        return all(table.enabled for table in self.fusions)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        for table in self.fusions:
            table.enabled = value

    @contextmanager
    def off(self) -> Iterator[None]:
        """The plain model while the context lasts (``parametrize.cached()``, around it, may keep fused tables)."""
        before = self.enabled
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = before

    def remove(self, *, bake: bool = True) -> nn.Module:
        """Make the embeddings plain ones again: same classes, same ``state_dict`` keys as before.

        Args:
            bake: write the fused rows into them, so that the model scores as in evaluation without reclm. Otherwise
                the base rows return as they are now (trained, if they were trained).

        Returns:
            The model.
        """
        for module in self.tables.values():
            detach(module, bake=bake)
        return self.model


def remove(model: nn.Module, *, bake: bool = True) -> nn.Module:
    """``Augmented(model).remove(bake=bake)``: see :meth:`Augmented.remove`."""
    return Augmented(model).remove(bake=bake)


def augment(
    model: nn.Module,
    users: str | None = "user_embedding",
    items: str | None = "item_embedding",
    *,
    profiles: "ProfileStore | Path | str | Mapping[ProfileKind, ProfileMatrix]",
    dataset: Dataset | TrainingView | None = None,
    side: Side = "both",
    user_rows: np.ndarray | None = None,
    item_rows: np.ndarray | None = None,
    missing: Missing = "zeros",
    cold: Literal["text"] | Mapping[ProfileKind, np.ndarray] | None = None,
    residual: bool = False,
    dropout: float = 0.0,
    encoder: "TextEncoder | None" = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Augmented:
    """Fuse profiles into a model's own embeddings: ``Ψ(x ‖ T_pro(p))`` (RecLM, arXiv 2412.19302, equation 2).

    The weight of each ``nn.Embedding`` gets a ``torch.nn.utils.parametrize`` parametrization: the model's code stays
    as it is, ``embedding.weight`` is the fused table, and ``embedding(ids)`` fuses only the rows asked for. Within
    ``parametrize.cached()``, as for an evaluation, a table is fused once. The base table is
    ``embedding.parametrizations.weight.original``. Users' and items' embeddings share one dual MLP if they are of one
    width; ``T_pro(p)`` is scaled to length one for users and not for items, as in the paper's release.

    Initialise the model first: what is later written into ``embedding.weight`` (``reset_parameters()``) is lost. Make
    the optimiser after, or give it ``Augmented.parameters()``. A model that regularises the rows it looks up now
    regularises fused ones. ``state_dict`` holds the base tables and the MLP, not the profiles: to load it, augment a
    fresh model with the same profiles. Where an embedding is ``sparse=True`` look-ups keep its gradient sparse.

    Args:
        model: the recommender. It is changed in place, or not at all where an error is raised.
        users, items: where its embeddings lie, as a dotted path; None for a side without. Both may name the same one.
        profiles: a store or its folder (``dataset`` is needed then), or matrices in the order of the data set.
        dataset: what the profiles were written from.
        side: the side, or sides, to augment.
        user_rows, item_rows: ``(U,)`` and ``(I,)`` integers, for each user (item) of the data set its row of the
            table. Only where users (items) have all rows of a table, and in order, may they be left out. Rows that
            are nobody's, padding for one, stay exactly as they are.
        missing: users and items without a profile are fused with ``zeros`` in place of ``T_pro(p)``; or stay
            ``plain``, as they are; or are an ``error``. They are counted and reported in a warning.
        cold: whose base embedding is masked, so that the fused row comes from the profile alone, ``Ψ(0 ‖ T_pro(p))``:
            ``"text"`` for all that ``dataset`` has no training interaction of, or data set rows by kind. Their own
            rows, which nothing has trained, would only add noise. With ``missing="plain"`` a cold row without a
            profile stays as it is.
        residual: ``x + g ∘ Ψ(x ‖ T_pro(p))`` with the gate ``g`` ``(d,)`` at zero to begin with: for a model that is
            trained already. Until it is trained further it scores as before, cold rows apart.
        dropout: on ``T_pro(p)``.
        encoder: makes vectors of a store's texts; by default the one that is installed with the toolkit.
        generator: source of the initial weights.
        progress: show a bar while texts are encoded.

    Returns:
        The handle: what was done, to switch off, to remove.

    Raises:
        ReclmError: for an embedding that is not there, is of another size, or cannot be augmented; for profiles of
            another data set; for rows that do not fit.
    """
    paths = _paths(users, items, side)
    if missing not in MISSING:
        raise unknown("missing=", missing, MISSING)
    embeddings = {kind: find_embedding(model, path) for kind, path in paths.items()}
    given = _matrices(profiles, dataset, list(paths), encoder, progress)
    placements: list[Placement] = []
    for kind, path in paths.items():
        count = len(given[kind])
        rows = table_rows(kind, path, embeddings[kind], count, user_rows if kind == "user" else item_rows)
        is_cold = cold_rows(cold, dataset, kind, count)
        placements.append(Placement(kind, path, embeddings[kind], given[kind], rows, is_cold))
        if missing == "error":
            check_complete(placements[-1], dataset)
    check_disjoint(placements)
    for embedding, table in _fused(placements, missing, residual, dropout, generator).items():
        attach(embedding, table)
    for counted in (one.coverage(missing) for one in placements):
        if counted.without:
            warnings.warn(str(counted), stacklevel=2)
    return Augmented(model)


def _paths(users: str | None, items: str | None, side: Side) -> dict[ProfileKind, str]:
    """Where the embedding of each side lies that is to be augmented."""
    if side not in ("user", "item", "both"):
        raise unknown("side", side, ["user", "item", "both"])
    given: dict[ProfileKind, str | None] = {"user": users, "item": items}
    paths: dict[ProfileKind, str] = {
        kind: path for kind, path in given.items() if path is not None and side in (kind, "both")
    }
    if not paths:
        raise ReclmError(f"nothing to augment: side={side!r} with users={users!r} and items={items!r}")
    return paths


def _fused(
    placements: list[Placement],
    missing: Missing,
    residual: bool,
    dropout: float,
    generator: torch.Generator | None,
) -> dict[nn.Embedding, FusedTable]:
    """The parametrization of each embedding. Sides with the same widths of text and embedding share the dual MLP."""
    mlps: dict[tuple[int, int], DualMLP] = {}
    tables: dict[nn.Embedding, FusedTable] = {}
    for one in placements:
        widths = one.profiles.vectors.shape[1], one.embedding.embedding_dim
        if widths not in mlps:
            mlps[widths] = DualMLP(*widths, dropout=dropout, generator=generator)
        fused = one.with_profile() if missing == "plain" else one
        side = FusedSide(fused, mlps[widths], normalize=one.kind == "user", residual=residual)
        tables.setdefault(one.embedding, FusedTable()).add(side, one.coverage(missing))
    return tables


def _matrices(
    profiles: "ProfileStore | Path | str | Mapping[ProfileKind, ProfileMatrix]",
    dataset: Dataset | TrainingView | None,
    kinds: Iterable[ProfileKind],
    encoder: "TextEncoder | None",
    progress: bool,
) -> dict[ProfileKind, ProfileMatrix]:
    """The profile embeddings of each kind, in the order of the data set.

    Raises:
        ReclmError: if they are of another data set, if a kind has none, or if a vector is not finite.
    """
    if isinstance(profiles, Mapping):
        check_kinds(profiles, "kind of profiles")
        found: dict[ProfileKind, ProfileMatrix] = {kind: profiles[kind] for kind in kinds if kind in profiles}
    else:
        found = _embedded(profiles, dataset, kinds, encoder, progress)
    for kind in kinds:
        matrix = found.get(kind)
        if matrix is None or not matrix.present.any():
            other = "item" if kind == "user" else "user"
            raise ReclmError(
                f"no {kind} of the data set has a profile; write some, or augment the other side alone: side={other!r}"
            )
        if dataset is not None and len(matrix) != len(idmap(dataset, kind)):
            raise ReclmError(
                f"{kind} profiles have {len(matrix)} rows, the data set {len(idmap(dataset, kind))} {kind}s; "
                "they must go by the data set's rows"
            )
        broken = np.flatnonzero(matrix.present & ~np.isfinite(matrix.vectors).all(axis=1))
        if len(broken):
            raise ReclmError(f"{kind} profiles are not finite in row {broken[0]}; encode that profile again")
    return found


def _embedded(
    profiles: "ProfileStore | Path | str",
    dataset: Dataset | TrainingView | None,
    kinds: Iterable[ProfileKind],
    encoder: "TextEncoder | None",
    progress: bool,
) -> dict[ProfileKind, ProfileMatrix]:
    from reclm.profiles.embeddings import embed
    from reclm.profiles.store import ProfileStore
    from reclm.text.encoder import TextEncoder

    if dataset is None:
        raise ReclmError("a profile store goes by ids; give dataset= too, which says whose row is which")
    store = profiles if isinstance(profiles, ProfileStore) else ProfileStore.read(Path(profiles))
    if store.info.fingerprint != dataset.fingerprint:
        raise ReclmError(
            f"profile store {store.folder} was written for data set {store.info.fingerprint}, not for "
            f"{dataset.name} {dataset.fingerprint}; give the data set, with the split, that it was written from"
        )
    encoder = encoder or TextEncoder()
    return {
        kind: ProfileMatrix(*embed(store, encoder, kind, idmap(dataset, kind), progress)) for kind in kinds
    }
