"""iALS (Hu, Koren & Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008), by the library
``implicit``: matrix factorisation by weighted least squares over all user-item pairs.
"""

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from reclm.config import Config
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Task


class IalsConfig(Config):
    """Options of iALS."""

    dim: int = Field(default=64, ge=1)
    """Latent width."""
    l2: float = Field(default=10.0, gt=0)
    """Regularisation; where it is not given, the best on validation of ``GRID``."""
    weight: float = Field(default=2.0, gt=0)
    """Weight α of an interaction; a pair without one weighs 1."""
    iterations: int = Field(default=15, ge=1)


class Ials(Backbone):
    """Fit the factors of users and items in turn, each in closed form."""

    Config = IalsConfig
    config: IalsConfig
    l2: Tensor
    seed: Tensor
    reference = True
    GRID = (1.0, 3.0, 10.0, 30.0, 100.0)

    def __init__(self, config: IalsConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.histories = inputs.train.matrix(inputs.users, inputs.items)
        self.register_buffer("l2", torch.tensor(config.l2))
        self.register_buffer("seed", torch.randint(2**31, (), generator=generator))
        self._factors: tuple[Tensor, Tensor] | None = None

    def choose(self, valid: Task, metric: str) -> None:
        """Take the regularisation that does best on validation, unless it is given."""
        self.choose_option(valid, metric, l2=self.GRID)

    def changed(self) -> None:
        """Forget the factors of other options."""
        self._factors = None

    def rankable(self) -> Tensor:
        """Return the items with training data."""
        return torch.from_numpy(np.flatnonzero(self.histories.sum(0)))

    def representations(self, profile_of: object = None) -> tuple[Tensor, Tensor]:
        """Return the factors ``(U, d)`` and ``(I, d)``; those of items without training data are 0."""
        if self._factors is None:
            from implicit.cpu.als import AlternatingLeastSquares
            from threadpoolctl import threadpool_limits

            options = {
                "factors": self.config.dim,
                "regularization": float(self.l2),
                "alpha": self.config.weight,
            }
            options |= {"iterations": self.config.iterations, "random_state": int(self.seed)}
            with threadpool_limits(1, "blas"):
                model = AlternatingLeastSquares(**options, num_threads=torch.get_num_threads())
                model.fit(sparse.csr_matrix(self.histories), show_progress=False)
            trained = np.asarray(self.histories.sum(0)) > 0
            items = np.where(trained[:, None], model.item_factors, 0).astype(np.float32)
            self._factors = torch.from_numpy(model.user_factors), torch.from_numpy(items)
        return self._factors
