"""What an observer attacks: any LightningModule that maps images to logits."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError


class AttackedNetwork(nn.Module):
    """The module as an attack wants it: float32 images in, float32 logits out, whatever the weights are.

    What is no tensor passes through, for `check_logits` to name: a branch here would keep torch.fx from seeing the
    layers, which attacks prepare by its graph once a network.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self._dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.module(image.to(self._dtype))
        return logits.float() if hasattr(logits, "float") else logits


def check_classifier(module: nn.Module, who: str) -> None:
    """Raise RectifyError for a module whose output is an embedding: it has no classes to be wrong about."""
    if callable(getattr(module, "embed", None)):
        raise RectifyError(
            f"{who} attacks classifiers, and {type(module).__name__} returns embeddings; take it out of the callbacks."
        )


def check_logits(logits: Any, image: Tensor, label: Tensor, module: nn.Module, who: str) -> None:
    """Raise RectifyError unless the module returned logits (n, K), and labels lie below K (host syncs).

    Args:
        who: the callback to name.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(image):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RectifyError(f"{who}: {type(module).__name__}(image) returned {found}, not logits ({len(image)}, K).")
    low, high = label.aminmax()
    if int(low) < 0 or int(high) >= logits.shape[1]:
        raise RectifyError(
            f"{who}: the labels go from {int(low)} to {int(high)}, but {type(module).__name__} has {logits.shape[1]} "
            "classes; give the network as many classes as the data have."
        )


def check_range(image: Tensor, who: str) -> None:
    """Raise RectifyError unless the images lie in [0, 1] (one host sync)."""
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise RectifyError(
            f"{who}: the images lie in [{low:.3g}, {high:.3g}], outside [0, 1], so eps has no meaning in pixels; "
            "put the normalisation into the network and take it out of the data."
        )
