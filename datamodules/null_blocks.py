"""Two blocks an image, of which one says nothing: where the evidence lies is known without annotation."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..randomness import keyed_generator
from .sources import Source


def with_null_blocks(source: Source, seed: int = 0) -> Source:
    """Return a source of images (2·H, W, C): each image and a block that is always the same, one above the other.

    BlockMNIST (Shah et al. 2021) of any data set. In every class the image stands below in half the samples (rounded
    up), drawn by (seed, class), so that the order says nothing of the label either.
    """
    below = np.zeros(len(source.labels), bool)
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        order = torch.randperm(len(members), generator=keyed_generator("null_blocks", seed, int(label))).numpy()
        below[members[order[: -(-len(members) // 2)]]] = True

    def image(position: int) -> np.ndarray:
        signal = source.image(position)
        null = null_block(*signal.shape)
        return np.concatenate((null, signal) if below[position] else (signal, null))

    return replace(source, image=image)


def null_block(height: int, width: int, channels: int = 1) -> np.ndarray:
    """Return the block without information (H, W, C) uint8: a grey frame around a white square on black."""

    def box(share: float, value: int) -> None:
        top, left = round(share * height), round(share * width)
        block[top : height - top, left : width - left] = value

    block = np.zeros((height, width, channels), np.uint8)
    box(1 / 8, 128)
    box(1 / 4, 0)
    box(3 / 8, 255)
    return block


def signal_block(images: Tensor) -> Tensor:
    """Return where the evidence lies in images (N, C, 2·H, W) with a null block: bool (N, 2·H, W).

    Args:
        images: as stored, uint8 or float in [0, 1]. An image that equals the null block itself counts as above.
    """
    count, channels, height, width = images.shape
    half = height // 2
    null = torch.as_tensor(null_block(half, width, channels)).permute(2, 0, 1).to(images.device)
    lower = images[:, :, half:] if images.dtype == torch.uint8 else (images[:, :, half:] * 255).round().to(torch.uint8)
    above = (lower == null).flatten(1).all(1)
    upper = torch.arange(height, device=images.device) < half
    return (upper == above[:, None])[:, :, None].expand(count, height, width)
