"""Fuse profiles into an ``nn.Embedding`` of any model, as a parametrization of its weight.

``embedding.weight`` is then the whole table, fused; ``embedding(ids)`` fuses only the rows asked for.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from reclm.data.dataset import ProfileKind
from reclm.fusion.dual_mlp import DualMLP, ProfileFusion
from reclm.fusion.rows import Coverage, Placement


class FusedSide(nn.Module):
    """Fuse the rows of users, or of items, in a table of ``N`` rows.

    Args:
        residual: ``x + g ∘ Ψ(x ‖ T_pro(p))`` in place of ``Ψ(x ‖ T_pro(p))``; the gate ``g`` ``(d,)`` starts at zero.
            (Not ``Ψ`` itself: behind its ReLU, weights of zero would never get a gradient.)
        zero_cold: make cold rows zero, in place of fusing them from the profile alone.
    """

    rows: Tensor
    place: Tensor
    cold: Tensor

    def __init__(self, placed: Placement, mlp: DualMLP, *, residual: bool, zero_cold: bool) -> None:
        super().__init__()
        self.fusion = ProfileFusion(placed.profiles, mlp, normalize=placed.kind == "user")
        self.gate = nn.Parameter(torch.zeros(mlp.psi.out_features)) if residual else None
        rows = torch.from_numpy(placed.rows)
        every = torch.arange(placed.embedding.num_embeddings)
        place = torch.full_like(every, -1).index_copy_(0, rows, torch.arange(len(rows)))
        self.in_order = torch.equal(rows, every)
        self.any_cold, self.zero_cold = bool(placed.cold.any()), zero_cold
        # not in the state_dict: data set and profiles determine all of it
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("cold", torch.from_numpy(placed.cold[:, None]), persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        """Return the whole table ``(N, d)``, this side's rows fused and all others as they are."""
        if self.in_order:
            return self._fuse(table, None)
        return table.index_copy(0, self.rows, self._fuse(table.index_select(0, self.rows), None))

    def at(self, table_rows: Tensor, base: Tensor) -> Tensor:
        """Return the same for rows ``(m,)`` of the table, of which ``base`` ``(m, d)`` are the features."""
        if self.in_order:
            return self._fuse(base, table_rows)
        place = self.place[table_rows]
        covered = (place >= 0).nonzero().squeeze(1)
        return base.index_copy(0, covered, self._fuse(base.index_select(0, covered), place[covered]))

    def _fuse(self, base: Tensor, rows: Tensor | None) -> Tensor:
        cold = self.cold if rows is None else self.cold[rows]
        if self.any_cold:
            base = base.masked_fill(cold, 0.0)
        fused = self.fusion(base, rows)
        if self.gate is not None:
            fused = base + self.gate * fused
        if self.any_cold and self.zero_cold:
            fused = fused.masked_fill(cold, 0.0)
        return fused.to(base.dtype)  # autocast computes in another


class FusedTable(nn.Module):
    """Parametrize an embedding: fuse the sides that have rows in the table, one after the other.

    Attributes:
        enabled: where False the table is the base table itself, to the bit.
        coverage: the counts of each side.
    """

    user: FusedSide | None
    item: FusedSide | None

    def __init__(self) -> None:
        super().__init__()
        self.user = self.item = None
        self.coverage: dict[ProfileKind, Coverage] = {}
        self.enabled = True

    def add(self, side: FusedSide, coverage: Coverage) -> None:
        """Add a side."""
        setattr(self, coverage.kind, side)
        self.coverage[coverage.kind] = coverage

    @property
    def sides(self) -> list[FusedSide]:
        """The sides that have rows in the table."""
        return [side for side in (self.user, self.item) if side is not None]

    def forward(self, base: Tensor) -> Tensor:
        """Return the whole table, ``(N, d)`` to ``(N, d)``."""
        if self.enabled:
            for side in self.sides:
                base = side(base)
        return base

    def lookup(self, ids: Tensor, base: Tensor, embedding: nn.Embedding) -> Tensor:
        """Return ``F.embedding(ids, self(base))``, ``(…,)`` to ``(…, d)``, fusing each row looked up once, no other."""
        distinct, inverse = torch.unique(ids, return_inverse=True)
        rows = F.embedding(distinct, base, embedding.padding_idx, sparse=embedding.sparse)
        for side in self.sides:
            rows = side.at(distinct, rows)
        return F.embedding(inverse, rows, scale_grad_by_freq=embedding.scale_grad_by_freq)


def attach(embedding: nn.Embedding, table: FusedTable) -> None:
    """Register the parametrization, and have the embedding's look-ups go by :meth:`FusedTable.lookup`.

    A subclass of ``nn.Embedding`` that looks up in a way of its own keeps it, and reads the whole fused table.
    """
    plain_forward = type(embedding).forward is nn.Embedding.forward
    table.to(embedding.weight.device, embedding.weight.dtype)
    # unsafe: only spares a first pass over the whole table that would check shape and type
    parametrize.register_parametrization(embedding, "weight", table, unsafe=True)
    if plain_forward:
        type(embedding).forward = _forward  # a class that register_parametrization made for this one module


def _forward(self: nn.Embedding, input: Tensor) -> Tensor:
    stacked = _parametrizations(self)
    table, base = stacked[0], base_table(self)
    assert isinstance(table, FusedTable)
    # with as many ids as rows, finding the distinct ones costs more than it saves
    whole = parametrize._cache_enabled or input.numel() >= len(base)
    if self.sparse and torch.is_grad_enabled():
        whole = False  # only a look-up of rows has a sparse gradient
    if whole or len(stacked) > 1 or not table.enabled:
        return nn.Embedding.forward(self, input)
    return table.lookup(input, base, self)


@torch.no_grad()
def detach(embedding: nn.Embedding, *, bake: bool) -> None:
    """Make it the plain embedding that it was, with fused rows (as in evaluation) or with its base rows."""
    table = fused_table(embedding)
    assert table is not None
    table.eval().enabled = True
    # copy.deepcopy lets a copy share the class that torch is about to strip of its property
    shared = type(embedding)
    copy = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    embedding.__class__ = copy  # pyright: ignore[reportAttributeAccessIssue]
    parametrize.remove_parametrizations(embedding, "weight", leave_parametrized=bake)


def fused_table(module: nn.Module) -> FusedTable | None:
    """Return the module's parametrization, if it is augmented."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    return next((entry for entry in _parametrizations(module) if isinstance(entry, FusedTable)), None)


def base_table(module: nn.Embedding) -> nn.Parameter:
    """Return the base table of an augmented embedding: its own weight ``(N, d)``."""
    return cast(nn.Parameter, _parametrizations(module).original)


def _parametrizations(module: nn.Module) -> parametrize.ParametrizationList:
    return cast(nn.ModuleDict, module.parametrizations)["weight"]  # pyright: ignore[reportReturnType]
