"""Count every sample of an evaluation once, although samplers pad the ranks to equal length."""

import torch
from torch import Tensor

from ..collectives import gather_rows, rank
from ..errors import RectifyError


class Deduplicator:
    """Marks each dataset index once per epoch, over all ranks.

    Every rank must call `keep` for each batch, so the ranks need the same number of batches (their sizes may differ).
    Each rank remembers all indices seen, on the host: one host sync a batch, for evaluation only.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def reset(self) -> None:
        """Start a new epoch."""
        self._seen.clear()

    def keep(self, index: Tensor) -> Tensor:
        """Return (n,) bool, true where the sample of `index` (n,) int64 comes for the first time.

        An index that several ranks bring in the same batch counts on the lowest of them.
        """
        if index.ndim != 1 or index.dtype != torch.int64:
            raise RectifyError(f"index must be int64 of shape (n,), got {index.dtype} of shape {tuple(index.shape)}.")
        kept: list[bool] = []
        for place, indices in enumerate(gather_rows(index)):
            for sample in indices.tolist():
                fresh = sample not in self._seen
                if fresh:
                    self._seen.add(sample)
                if place == rank():
                    kept.append(fresh)
        return torch.tensor(kept, dtype=torch.bool, device=index.device)
