"""RISE: what random masks leave of a class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RectifyError
from ..randomness import keyed_generator
from .perturbations import masked_probabilities, of_target


def random_masks(
    count: int,
    size: tuple[int, int],
    cells: int = 7,
    keep: float = 0.5,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return smooth random masks (count, H, W) in [0, 1] (Petsiuk et al. 2018).

    Each cell of a grid is kept with probability `keep`; the grid is enlarged bilinearly and cut out at a random shift.
    It has one row and column more than the `cells` x `cells` that cover the image, so that a cell stays H/cells wide;
    the paper stretches `cells` x `cells` of them over as much.

    Raises:
        RectifyError: a count or a number of cells below 1, or keep outside (0, 1).
    """
    if count < 1 or cells < 1 or not 0 < keep < 1:
        raise RectifyError(
            f"random_masks: count is {count}, cells {cells} and keep {keep}; "
            "give at least 1, at least 1 and a probability in (0, 1)."
        )
    generator = generator or keyed_generator("random_masks", device=device)
    height, width = size
    step = -(-height // cells), -(-width // cells)
    grid = (torch.rand((count, 1, cells + 1, cells + 1), generator=generator, device=device) < keep).float()
    # The shift enters as the sampling position: one call makes all masks, of which no larger version is stored.
    shift = torch.rand((count, 2), generator=generator, device=device)
    rows = _positions(height, step[0], shift[:, 0], cells + 1)
    columns = _positions(width, step[1], shift[:, 1], cells + 1)
    places = torch.stack((columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)), dim=-1)
    masks = F.grid_sample(grid, places, mode="bilinear", padding_mode="border", align_corners=False)
    return masks.squeeze(1).clamp_(0, 1)  # rounding goes beyond 1


def rise(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    masks: Tensor | int = 1024,
    cells: int = 7,
    keep: float = 0.5,
    chunk: int = 64,
) -> Tensor:
    """Return RISE maps (B, H, W) of the targets' probability (Petsiuk et al. 2018); see `rise_classes`."""
    return of_target(rise_classes(model, images, masks, cells, keep, chunk), target)


def rise_classes(
    model: nn.Module,
    images: Tensor,
    masks: Tensor | int = 1024,
    cells: int = 7,
    keep: float = 0.5,
    chunk: int = 64,
) -> Tensor:
    """Return RISE maps (B, K, H, W) of all images and classes: the masks are made once, and one matrix product ends it.

    Σ_i p(x·M_i)·M_i / (N·keep).

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        masks: (N, H, W), or how many to draw; the same for every call.
        cells, keep: as for `random_masks`; with masks given, keep is their mean.
        chunk: images in one forward pass.

    Raises:
        RectifyError: as `random_masks` and `input_gradient`.
    """
    size = (images.shape[-2], images.shape[-1])
    if isinstance(masks, int):
        masks = random_masks(masks, size, cells, keep, device=images.device)
    else:
        keep = float(masks.mean())
    probabilities = masked_probabilities(model, images, masks, chunk=chunk)
    flat = probabilities.flatten(1).T @ masks.flatten(1).float()
    return (flat / (len(masks) * keep)).unflatten(0, probabilities.shape[1:]).unflatten(2, size)


def _positions(pixels: int, step: int, shift: Tensor, cells: int) -> Tensor:
    """Where each pixel lies on the grid, (N, pixels) in the coordinates [-1, 1] of `grid_sample`."""
    place = torch.arange(pixels, device=shift.device) + (shift * step).floor()[:, None] + 0.5
    return 2 * place / (step * cells) - 1
