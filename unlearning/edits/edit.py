"""The contract of an edit: weights are changed once, without training."""

from collections.abc import Iterable
from typing import Any

from torch import nn

Batches = Iterable[dict[str, Any]]


class Edit:
    """Makes a network forget by one change of its weights.

    `apply(backbone, forget, retain)` takes the plain module with whole weights on every rank, and loaders of evaluation
    batches with `image`, `label` and `index`, the same number on every rank; a loader may be read several times. It
    looks at the network in evaluation mode and fp32, counts every sample once over all ranks, gives every rank the same
    weights, and touches nothing but trainable weights: neither batch-norm statistics nor modes, `.grad` or the random
    state.
    """

    def apply(self, backbone: nn.Module, forget: Batches, retain: Batches) -> None:
        """Change the weights of the backbone in place."""
        raise NotImplementedError
