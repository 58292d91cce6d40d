"""The profile embeddings of all users (or items), in row order."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ProfileMatrix:
    """Profile embeddings in row order.

    Attributes:
        vectors: ``(n, t)`` float32; rows without a profile are not read.
        present: ``(n,)`` bool, whether the row has a profile.
    """

    vectors: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.present.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"vectors {self.vectors.shape} and present {self.present.shape} do not go together"
            )

    def __len__(self) -> int:
        return len(self.vectors)
