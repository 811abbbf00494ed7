"""The patch grid of a vision transformer, so that its layers are explained like those of a CNN."""

import torch.nn.functional as F
from torch import Tensor

from ..errors import RectifyError

MOST_PREFIX = 8  # class token, distillation token, registers


def patch_grid(tokens: Tensor, size: tuple[int, int], prefix: int | None = None) -> Tensor:
    """Return tokens (B, N, D) as a grid (B, D, h, w), without the prefix tokens that belong to no patch.

    Args:
        size: (H, W) of the images; h/w = H/W, since patches are square.
        prefix: class and register tokens at the start; by default the least number with which the rest fills a grid.

    Raises:
        RectifyError: no grid of the image's shape has that many patches.
    """
    count, (height, width) = tokens.shape[1], size
    for first in range(MOST_PREFIX + 1) if prefix is None else [prefix]:
        patches = count - first
        rows = round((max(patches, 0) * height / width) ** 0.5)
        columns = rows * width // height
        if rows and rows * columns == patches and rows * width == columns * height:
            return tokens[:, first:].transpose(1, 2).unflatten(2, (rows, columns))
    raise RectifyError(
        f"{count} tokens are no grid of patches of an image {height}x{width}; give a layer of patch tokens (B, N, D)."
    )


def spatial_grid(output: Tensor, size: tuple[int, int], name: str, who: str = "Grad-CAM") -> Tensor:
    """Return a layer's output as (B, c, h, w): a CNN's as it is, a transformer's tokens by `patch_grid`.

    An output (B, h, w, c), as a Swin transformer's, is told by its sides: they have the shape of the image only so.

    Raises:
        RectifyError: the output is neither.
    """
    pooled = output.ndim == 4 and output.shape[2:].numel() == 1 < size[0] * size[1]  # no place is left to tell apart
    if output.ndim == 4 and not pooled:
        return output.permute(0, 3, 1, 2) if _channels_last(output, size) else output
    if output.ndim == 3:
        return patch_grid(output, size)
    raise RectifyError(
        f"layer: {who} needs an output (B, c, h, w), but {name} gives {tuple(output.shape)}; "
        "choose a convolutional layer."
    )


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, h, w) bilinearly at the size (H, W) of the images."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False).squeeze(1)


def _channels_last(output: Tensor, size: tuple[int, int]) -> bool:
    first, second, last = output.shape[1:]
    height, width = size
    as_it_is, turned = second * width / (last * height), first * width / (second * height)
    fits = 0.6 <= as_it_is <= 1.7 and last <= width
    return not fits and 0.8 <= turned <= 1.25 and first <= height and second <= width
