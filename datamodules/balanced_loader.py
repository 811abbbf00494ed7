"""The training loader whose batches are drawn by class."""

from typing import Any

import numpy as np

from ..errors import RectifyError
from .balanced_classes import BalancedClasses
from .loader import TrainingLoader


class BalancedLoader(TrainingLoader):
    """A TrainingLoader in the order of a BalancedClasses: batch b of an epoch goes to rank b mod W.

    The state is the position in the batches of the epoch, so a run goes on where it stood on any number of processes.
    Batches that do not fill a step of all ranks are left out, so ranks have equally many.

    Raises:
        RectifyError: the training split does not fill one step.
    """

    def __init__(
        self, *, sampler: BalancedClasses, labels: np.ndarray, indices: np.ndarray, batch_size: int, **more: Any
    ):
        sampler.classes(batch_size)
        super().__init__(labels=labels, indices=indices, batch_size=batch_size, **{**more, "drop_last": True})
        self.sampler, self._own_labels = sampler, labels[indices]
        if len(indices) < batch_size * self.world:
            raise RectifyError(
                f"The training split has {len(indices)} samples, fewer than one step of {self.world} x {batch_size}; "
                "lower data.batch_size."
            )

    def _steps(self, position: int) -> list[tuple[int, int]]:
        step = self.batch_size * self.world
        start = -(-position // self.batch_size) * self.batch_size  # a state from another batch size
        end = len(self.indices) // self.batch_size * self.batch_size
        return [(first, first + step) for first in range(start, end - step + 1, step)]

    def _order(self, *key: int) -> np.ndarray:
        return self.indices[self.sampler.order(self._own_labels, self.batch_size, *key)]

    def _share(self, chunk: np.ndarray, start: int) -> np.ndarray:
        return chunk.reshape(self.world, self.batch_size)[(self.rank - start // self.batch_size) % self.world]
