"""The dual MLP that puts profile text into a recommender's features (RecLM, arXiv 2412.19302, equations 1 and 2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a linear map with Xavier-uniform weights drawn from ``generator`` and zero bias."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)  # pyright: ignore[reportAssignmentType]
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def transform(text_dim: int, dim: int, generator: torch.Generator | None) -> nn.Sequential:
    """Return ``T_raw`` or ``T_pro``: text ``(…, text_dim)`` to latent ``(…, dim)``, two layers with a ReLU between."""
    return nn.Sequential(linear(text_dim, dim, generator), nn.ReLU(), linear(dim, dim, generator))


class DualMLP(nn.Module):
    """Compute ``Ψ(x ‖ T_pro(p))``, alike for users and items (equation 2).

    ``Ψ`` is one linear layer with a ReLU, as in the paper's release.

    Args:
        text_dim: width of a profile embedding.
        dim: latent width ``d``.
        dropout: on ``T_pro(p)``.
        generator: source of the initial weights.
    """

    def __init__(
        self, text_dim: int, dim: int, *, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.t_pro = transform(text_dim, dim, generator)
        self.psi = linear(2 * dim, dim, generator)
        self.dropout = nn.Dropout(dropout)

    def encode(self, profile: Tensor) -> Tensor:
        """Return ``T_pro(p)``: ``(n, text_dim) -> (n, dim)``, dropout included."""
        return self.dropout(self.t_pro(profile))

    def fuse(self, base: Tensor, encoded: Tensor, index: Tensor | None = None) -> Tensor:
        """Return ``Ψ(base ‖ encoded)``; each half of ``Ψ`` is applied where it is smallest.

        Args:
            base: ``(n, dim)``.
            encoded: ``(m, dim)``, ``T_pro`` of profiles.
            index: ``(n,)``, the profile of each row; by default ``m = n`` and one follows the other.
        """
        of_base, of_profile = self.psi.weight.chunk(2, dim=1)
        shift = F.linear(encoded, of_profile, self.psi.bias)
        if index is not None:
            shift = F.embedding(index, shift)
        return F.relu(shift + F.linear(base, of_base))

    def forward(self, base: Tensor, profile: Tensor) -> Tensor:
        """Return fused features ``(n, dim)`` of base features ``(n, dim)`` and profile embeddings ``(n, text_dim)``."""
        return self.fuse(base, self.encode(profile))
