"""One trained vector per class, shared by the losses that compare embeddings with classes."""

import torch
from torch import Tensor, nn

from ...errors import RectifyError
from ...randomness import global_seed, keyed_generator
from .embedding_loss import EmbeddingLoss


class ProxyLoss(EmbeddingLoss):
    """A loss with proxies (classes, dimension), drawn with variance 2 / classes.

    Args:
        classes: number of training classes; labels lie in [0, classes).
        dimension: of the embedding; by default the backbone's output, `backbone.classes`.
        learning_rate_scale: proxies move this many times faster than the learning rate under Adam and its kin (the
            stored parameter is that much smaller); published recipes take 100.
    """

    def __init__(self, classes: int, dimension: int | None = None, learning_rate_scale: float = 1.0):
        super().__init__()
        if classes < 2:
            raise RectifyError(f"{type(self).__name__}: classes is {classes}; at least 2 are needed.")
        if not learning_rate_scale > 0:
            raise RectifyError(
                f"{type(self).__name__}: learning_rate_scale is {learning_rate_scale}; it must be above 0."
            )
        self.classes = classes
        self.learning_rate_scale = learning_rate_scale
        self.stored: nn.Parameter | None = None
        if dimension is not None:
            self._draw(dimension)

    def setup(self, backbone: nn.Module) -> None:
        if self.stored is None:
            dimension = getattr(backbone, "classes", None)
            if not isinstance(dimension, int):
                raise RectifyError(f"{type(self).__name__}: set dimension, the size of the embedding.")
            self._draw(dimension)

    def _draw(self, dimension: int) -> None:
        if dimension < 1:
            raise RectifyError(f"{type(self).__name__}: dimension is {dimension}; it must be 1 or more.")
        generator = keyed_generator(global_seed(), "proxies")
        drawn = torch.randn(self.classes, dimension, generator=generator) * (2 / self.classes) ** 0.5
        self.stored = nn.Parameter(drawn / self.learning_rate_scale)

    @property
    def proxies(self) -> Tensor:
        """(classes, dimension), not normalised."""
        if self.stored is None:
            raise RectifyError(f"{type(self).__name__}: set dimension, or call setup(backbone) first.")
        return self.stored * self.learning_rate_scale
