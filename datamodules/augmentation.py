"""Augmentation of a batch on its device, every sample by its own key.

What happens to a sample is a function of its key, a hash of (seed, epoch, index): not of the rank, the batch it is in,
or the device. The few numbers are drawn on the CPU and sent along, so there is no host sync and CPU and GPU agree.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import RectifyError
from ..randomness import fold
from .order import GOLDEN, mix64, view_keys


class Augmentation:
    """`augment(image, keys, stream)`: (B, C, H, W) of any type and (B,) int64 keys on the CPU to a new (B, C, H, W)."""

    def __call__(self, image: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        """Augment out of place; `stream` tells two uses of one class in a list apart."""
        raise NotImplementedError

    def _uniform(self, keys: Tensor, stream: int, count: int) -> Tensor:
        """Return (B, count) numbers in [0, 1), on the CPU."""
        return keyed_uniform(keys, fold(type(self).__name__, stream), count)


def keyed_uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Return (B, count) float32 in [0, 1): SplitMix64 of key and stream, counted on from there."""
    start = mix64((keys.cpu() ^ stream).numpy().view(np.uint64))
    x = mix64(start[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
    return torch.from_numpy((x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


class PadCrop(Augmentation):
    """Pad with zeros on all sides and crop back at a random place (He et al. 2016, for CIFAR with 4 pixels).

    Args:
        pad: pixels added to each side.
    """

    def __init__(self, pad: int = 4):
        if pad < 0:
            raise RectifyError(f"PadCrop: pad is {pad}; give pixels, 0 or more.")
        self.pad = pad

    def __call__(self, image: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        batch, channels, height, width = image.shape
        shift = (self._uniform(keys, stream, 2) * (2 * self.pad + 1)).long().to(image.device, non_blocking=True)
        rows = shift[:, :1] + torch.arange(height, device=image.device)
        columns = shift[:, 1:] + torch.arange(width, device=image.device)
        padded = F.pad(image, [self.pad] * 4)
        sample = torch.arange(batch, device=image.device)[:, None, None, None]
        channel = torch.arange(channels, device=image.device)[None, :, None, None]
        return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


class Flip(Augmentation):
    """Mirror left and right.

    Args:
        probability: share of the samples that are mirrored.
    """

    def __init__(self, probability: float = 0.5):
        if not 0 <= probability <= 1:
            raise RectifyError(f"Flip: probability is {probability}; give a number in [0, 1].")
        self.probability = probability

    def __call__(self, image: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        flip = (self._uniform(keys, stream, 1) < self.probability).to(image.device, non_blocking=True)
        return torch.where(flip[:, :, None, None], image.flip(-1), image)


class Cutout(Augmentation):
    """Set a square to zero whose centre lies anywhere in the image, clipped at the border (DeVries & Taylor 2017).

    Args:
        size: side of the square in pixels; 16 for CIFAR-10 in the paper.
    """

    def __init__(self, size: int = 16):
        if size < 1:
            raise RectifyError(f"Cutout: size is {size}; give pixels, 1 or more.")
        self.size = size

    def __call__(self, image: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        height, width = image.shape[-2:]
        centre = (self._uniform(keys, stream, 2) * torch.tensor([height, width])).long()
        start = (centre - self.size // 2).to(image.device, non_blocking=True)
        rows = torch.arange(height, device=image.device) - start[:, :1]
        columns = torch.arange(width, device=image.device) - start[:, 1:]
        inside = ((rows >= 0) & (rows < self.size))[:, :, None] & ((columns >= 0) & (columns < self.size))[:, None, :]
        return image.masked_fill(inside[:, None], 0)


def augmented(image: Tensor, keys: Tensor, augmentations: Sequence[Augmentation], views: int = 1) -> Tensor:
    """Apply augmentations in order: (B, C, H, W), or (B, views, C, H, W) for several views, each drawn for itself.

    Args:
        keys: (B,) int64 on the CPU, one for each sample of the first view.
    """
    out = []
    for view in range(views):
        own = keys if view == 0 else torch.from_numpy(view_keys(keys.numpy(), view))
        picture = image
        for stream, augmentation in enumerate(augmentations):
            picture = augmentation(picture, own, stream)
        out.append(picture)
    return out[0] if views == 1 else torch.stack(out, dim=1)
