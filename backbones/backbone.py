"""The contract of a backbone: features, then a head, with the normalisation as its first layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import RectifyError, did_you_mean


class Normalize(nn.Module):
    """(x - mean) / std per channel; buffers, so that an attack budget outside is in pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise RectifyError(f"mean {list(mean)} and std {list(std)} need one entry per channel, each std above 0.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class Backbone(nn.Module):
    """`forward = head(features(image))` for images (B, C, H, W) in [0, 1].

    Python code may pass any `nn.Module` with these three methods instead.
    """

    def features(self, image: Tensor) -> Tensor:
        """Return the penultimate features, (B, D)."""
        raise NotImplementedError

    def head(self, features: Tensor) -> Tensor:
        """Return logits, (B, K)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


def named_layer(backbone: nn.Module, name: str) -> nn.Module:
    """Return a layer by its name in `named_modules()`.

    Raises:
        RectifyError: no layer has this name.
    """
    layers = dict(backbone.named_modules())
    if not name or name not in layers:
        raise RectifyError(f"The backbone has no layer {name!r}.{did_you_mean(name, filter(None, layers))}")
    return layers[name]


def check_backbone(backbone: nn.Module) -> None:
    """Raise RectifyError unless `features`, `head` and `forward` are there."""
    missing = [name for name in ("features", "head", "forward") if not callable(getattr(backbone, name, None))]
    if missing:
        raise RectifyError(
            f"{type(backbone).__name__} cannot serve as backbone: it lacks {', '.join(missing)}; "
            "give it features(image) -> (B, D) and head(features) -> (B, K)."
        )
