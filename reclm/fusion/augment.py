"""Augment a recommender of your own: any ``nn.Module`` with its users and items in ``nn.Embedding``."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np
import torch
from torch import nn

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.errors import BadInput, NotFound, check_type, unknown
from reclm.fusion.dual_mlp import DualMLP
from reclm.fusion.parametrization import FusedSide, FusedTable, attach, detach, fused_table
from reclm.fusion.rows import (
    MISSING,
    Cold,
    Coverage,
    Missing,
    Placement,
    check_complete,
    check_disjoint,
    check_kinds,
    find_embedding,
    place,
)
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import view_of
from reclm.profiles.profiles import HOW, Profiles


class Augmented:
    """A handle on an augmented model: its coverage, a switch, and removal.

    It holds nothing but the model, so that ``Augmented(copy.deepcopy(model))`` is the handle of a copy.

    Attributes:
        tables: the embeddings that are augmented, by their path in the model.

    Raises:
        BadInput: if the model is not augmented.
    """

    def __init__(self, model: nn.Module) -> None:
        check_type("model", model, nn.Module, "give the model that was augmented")
        self.model = model
        embeddings = {path: at for path, at in model.named_modules() if isinstance(at, nn.Embedding)}
        self.tables = {path: at for path, at in embeddings.items() if fused_table(at) is not None}
        if not self.tables:
            name = type(model).__name__
            raise BadInput(f"{name} is not augmented; call reclm.augment(model, ...) first", value=name)

    @property
    def fusions(self) -> list[FusedTable]:
        """The parametrizations, one for each embedding."""
        return [table for module in self.tables.values() if (table := fused_table(module)) is not None]

    @property
    def coverage(self) -> list[Coverage]:
        """The counts of rows with and without profiles, for each side in each embedding."""
        return [counts for table in self.fusions for counts in table.coverage.values()]

    def __repr__(self) -> str:
        return "\n".join(map(str, self.coverage))

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>{escape(str(counts))}</li>" for counts in self.coverage)
        return f"<b>Augmented {escape(type(self.model).__name__)}</b><ul>{rows}</ul>"

    def parameters(self) -> list[nn.Parameter]:
        """Return the weights that augmentation added: those of the dual MLP (and gates).

        ``model.parameters()`` has them too; an optimiser made before needs ``add_param_group``.
        """
        return list(nn.ModuleList(self.fusions).parameters())

    @property
    def enabled(self) -> bool:
        """Return whether profiles are fused; if not, the model computes to the bit what it did before."""
        return all(table.enabled for table in self.fusions)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        for table in self.fusions:
            table.enabled = value

    @contextmanager
    def off(self) -> Iterator[None]:
        """Compute without profiles in the ``with`` block (``parametrize.cached()`` around it may hold fused tables)."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def remove(self, *, bake: bool = True) -> nn.Module:
        """Make the embeddings plain ones again, with the ``state_dict`` keys they had, and return the model.

        Args:
            bake: write the fused rows into them, so that the model scores as in evaluation without reclm. Otherwise
                the base rows return as they are now (trained, if they were trained).
        """
        for module in Augmented(self.model).tables.values():  # an error where it is plain by now
            detach(module, bake=bake)
        return self.model


def remove(model: nn.Module, *, bake: bool = True) -> nn.Module:
    """Make a model plain again: see :meth:`Augmented.remove`."""
    return Augmented(model).remove(bake=bake)


def augment(
    model: nn.Module,
    profiles: Profiles | Mapping[ProfileKind, ProfileMatrix],
    *,
    users: str | None = "user_embedding",
    items: str | None = "item_embedding",
    user_ids: Sequence[Any] | None = None,
    item_ids: Sequence[Any] | None = None,
    user_rows: np.ndarray | None = None,
    item_rows: np.ndarray | None = None,
    cold: Cold | Mapping[ProfileKind, np.ndarray] | None = "text",
    missing: Missing = "zeros",
    residual: bool = False,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    data: Dataset | TrainingView | None = None,
) -> Augmented:
    """Fuse profiles into a model's own embeddings: ``Ψ(x ‖ T_pro(p))`` (RecLM, arXiv 2412.19302, equation 2).

    The weight of each ``nn.Embedding`` gets a ``torch.nn.utils.parametrize`` parametrization: the model's code stays
    as it is, ``embedding.weight`` is the fused table, and ``embedding(ids)`` fuses only the rows looked up. Within
    ``parametrize.cached()``, as for an evaluation, a table is fused once. The base table is
    ``embedding.parametrizations.weight.original``. Users' and items' embeddings share one dual MLP if they are alike;
    ``T_pro(p)`` is scaled to length one for users and not for items, as in the paper's release.

    Initialise the model first: what is later written into ``embedding.weight`` (``reset_parameters()``) is lost. Make
    the optimiser after, or give it ``Augmented.parameters()``. A model that regularises the rows it looks up now
    regularises fused ones. ``state_dict`` holds the base tables and the MLP, not the profiles: to load it, augment a
    fresh model with the same profiles. Where an embedding is ``sparse=True`` look-ups keep its gradient sparse.

    Args:
        model: the recommender. It is changed in place, or not at all where an error is raised.
        profiles: of users, items or both; or matrices by kind, in the order of the data set ``data``.
        users, items: dotted paths of the embeddings; None for a side to leave out. Both may name the same one.
        user_ids, item_ids: for each row of the table the id of its user (item); None for a row that is nobody's.
            Without them rows go by the order of the data set, and the table must be of its size.
        user_rows, item_rows: the same as row numbers: ``(U,)`` and ``(I,)`` integers, for each user (item) of the data
            set its row. Rows that are nobody's, padding for one, stay exactly as they are.
        cold: treatment of users and items without a training interaction, whose own rows would only add noise.
            ``text``: fused from the profile alone, ``Ψ(0 ‖ T_pro(p))``. ``error``: the same, and all must have a
            profile. ``zero``: a row of zeros. None: as all others. Or data set rows by kind, in place of those without
            training, treated as with ``text``.
        missing: users and items without a profile are fused with ``zeros`` in place of ``T_pro(p)``; or stay
            ``plain``, as they are; or are an ``error``. They are counted and reported in a warning. With ``plain`` a
            cold row without a profile stays as it is, too.
        residual: ``x + g ∘ Ψ(x ‖ T_pro(p))`` with the gate ``g`` ``(d,)`` at zero to begin with: for a model that is
            trained already. Until it is trained further it scores as before, cold rows apart.
        dropout: on ``T_pro(p)``.
        generator: source of the initial weights.
        data: the data set that matrices go by; :class:`~reclm.profiles.profiles.Profiles` know theirs.

    Returns:
        The handle: coverage, switch, removal.

    Raises:
        NotFound: for an embedding that is not there, and where nobody has a profile.
        BadInput: for one of another size, or that cannot be augmented; for rows or ids that do not fit.
    """
    if missing not in MISSING:
        raise unknown("missing=", missing, MISSING)
    check_type("profiles", profiles, (Profiles, Mapping), HOW)
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise BadInput(
            f"dropout = {dropout!r}: give a share of at least 0 and below 1", value=dropout, where="dropout"
        )
    if isinstance(profiles, Mapping):
        kinds, view = tuple(profiles), None if data is None else view_of(data)
    else:
        kinds, view = profiles.kinds, profiles.view
    check_kinds(kinds, "kind of profiles")
    sides: dict[ProfileKind, tuple[str | None, Sequence[Any] | None, np.ndarray | None]] = {
        "user": (users, user_ids, user_rows),
        "item": (items, item_ids, item_rows),
    }
    tables: dict[ProfileKind, tuple[str, nn.Embedding]] = {
        kind: (path, find_embedding(model, path))
        for kind, (path, _, _) in sides.items()
        if path is not None and kind in kinds
    }
    if not tables:
        message = (
            f"nothing to augment: profiles of {', '.join(kinds) or 'nobody'}, with {users=} and {items=}"
        )
        raise NotFound(message, value=list(kinds))
    placements: list[Placement] = []
    for kind, table in tables.items():
        matrix = profiles[kind] if isinstance(profiles, Mapping) else profiles.matrix(kind)
        placement = place(kind, *table, matrix, view, cold, *sides[kind][1:])
        if "error" in (missing, cold):
            check_complete(placement, view, placement.cold | (missing == "error"))
        placements.append(placement)
    check_disjoint(placements)
    for embedding, table in _fused(placements, missing, residual, dropout, generator, cold == "zero").items():
        attach(embedding, table)
    for coverage in (placement.coverage(missing) for placement in placements):
        if coverage.without:
            warnings.warn(str(coverage), stacklevel=2)
    return Augmented(model)


def _fused(
    placements: list[Placement],
    missing: Missing,
    residual: bool,
    dropout: float,
    generator: torch.Generator | None,
    zero_cold: bool,
) -> dict[nn.Embedding, FusedTable]:
    """Return the parametrization of each embedding; sides of the same widths, type and device share the dual MLP."""
    mlps: dict[Any, DualMLP] = {}
    tables: dict[nn.Embedding, FusedTable] = {}
    alike: dict[Any, list[nn.Embedding]] = {}
    for placement in placements:
        weight = placement.embedding.weight
        widths = placement.profiles.vectors.shape[1], placement.embedding.embedding_dim
        key = (*widths, weight.dtype, weight.device)
        if key not in mlps:
            mlps[key] = DualMLP(*widths, dropout=dropout, generator=generator)
        alike.setdefault(key, []).append(placement.embedding)
        placed = placement.with_profile() if missing == "plain" else placement
        side = FusedSide(placed, mlps[key], residual=residual, zero_cold=zero_cold)
        tables.setdefault(placement.embedding, FusedTable()).add(side, placement.coverage(missing))
    for key, embeddings in alike.items():
        _scale(mlps[key], [embedding.weight for embedding in embeddings])
    return tables


@torch.no_grad()
def _scale(mlp: DualMLP, tables: list[torch.Tensor]) -> None:
    """Scale the half of ``Ψ`` that reads profiles to the rows of the tables, where these are longer than one.

    ``nn.Embedding`` draws rows of length ``√d``, of Xavier's they are shorter than one. Beside such rows the profile is
    noise, and a cold row, which is its profile alone, next to nothing. Lengths are rounded to powers of ``√2``, so that
    a few rows more or less make no difference; that of ``T_pro(p)`` is the one of random vectors ``p`` of length one.
    """
    lengths = torch.cat([table.float().norm(dim=1) for table in tables]).cpu()
    length = 2 ** ((2 * lengths[lengths > 0].mean().log2()).round() / 2)
    if length > 1:
        first, *_, last = (layer for layer in mlp.t_pro.children() if isinstance(layer, nn.Linear))
        drawn = torch.randn(256, first.in_features, generator=torch.Generator().manual_seed(0))
        last.weight /= mlp.t_pro(nn.functional.normalize(drawn)).norm(dim=1).mean()
        mlp.psi.weight[:, mlp.psi.out_features :] *= length
