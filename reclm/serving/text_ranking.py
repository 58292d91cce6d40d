"""The items of a data set by how near their text is to a profile: LangPTune's σ (arXiv 2410.18870, section 3)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reclm.data.dataset import Dataset
from reclm.errors import ReclmError
from reclm.text.encoder import TextEncoder, item_text_features
from reclm.workspace import Workspace


class TextRanking:
    """Scores any profile text against all items that have a text.

    Args:
        dataset: whose items; what its users touched in training or validation is masked, as in the evaluation.
        encoder: of item texts and of profiles.
        workspace: keeps the items' vectors.
        progress: show a bar while items are encoded.

    Raises:
        ReclmError: if no item has a text.
    """

    def __init__(
        self, dataset: Dataset, encoder: TextEncoder, workspace: Workspace, progress: bool = True
    ) -> None:
        if not dataset.item_text.num_columns:
            raise ReclmError(f"data set {dataset.name!r} has no item text to rank by")
        features = item_text_features(dataset.view(), encoder, workspace, progress)
        self.dataset, self.encoder = dataset, encoder
        self.items = F.normalize(torch.from_numpy(features), dim=-1)
        """``(I, t)``, of length one; zeros for an item without text."""
        self.blank = torch.from_numpy(~features.any(axis=1))
        """``(I,)``, whether an item has no text."""
        if self.blank.all():
            raise ReclmError(f"data set {dataset.name!r} has no item with a text to rank by")
        touched = dataset.joined(["train", "valid"])
        self._touched = touched.matrix(len(dataset.users), len(dataset.items))

    def scores(
        self, texts: Sequence[str], users: np.ndarray, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """Cosines ``(n, I)`` float32 of ``n`` profiles, -inf for touched items and for those without text.

        Bound: one product ``(n, t) × (t, I)``; the scores are held at once, ``4·n·I`` bytes.

        Args:
            texts: ``n`` profiles.
            users: ``(n,)`` user_idx, whose history is masked.
            progress: as in :meth:`~reclm.text.encoder.TextEncoder.encode`.
        """
        profiles = torch.from_numpy(self.encoder.encode(texts, progress=progress))
        scores = F.normalize(profiles, dim=-1) @ self.items.T
        scores[:, self.blank] = -torch.inf
        rows, columns = self._touched[users].nonzero()
        scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
        return scores
