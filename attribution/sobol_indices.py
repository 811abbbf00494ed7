"""Total-order Sobol indices of image cells."""

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from .perturbations import masked_probabilities, of_target, upsampled_cells


def sobol(
    model: nn.Module, images: Tensor, target: Tensor, cells: int = 8, designs: int = 32, chunk: int = 64
) -> Tensor:
    """Return maps (B, H, W) of each cell's total-order Sobol index for the targets; see `sobol_classes`."""
    return of_target(sobol_classes(model, images, cells, designs, chunk), target)


def sobol_classes(
    model: nn.Module, images: Tensor, cells: int = 8, designs: int = 32, chunk: int = 64, seed: int = 0
) -> Tensor:
    """Return the share of the variance a cell takes part in, alone or with others, (B, K, H, W) for all classes.

    Cells are dimmed by factors in [0, 1] (Fel et al. 2021): Jansen's estimator
    Σ(f(A) - f(A_B^i))² / (2N·Var f(A)) over N scrambled Sobol points A, B, where A_B^i takes cell i from B. It costs
    N·(cells² + 1) forward passes. A class whose probability does not vary has the index 0.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        cells: cells on a side.
        designs: N, best a power of 2.
        chunk: images in one forward pass.
        seed: of the scrambling.

    Raises:
        RectifyError: cells below 1, designs below 2, or as `input_gradient`.
    """
    if cells < 1 or designs < 2:
        raise RectifyError(f"sobol: cells is {cells} and designs {designs}; give at least 1 and 2.")
    places = cells * cells
    engine = torch.quasirandom.SobolEngine(2 * places, scramble=True, seed=seed)
    first, second = engine.draw(designs).to(images.device).split(places, dim=1)
    size = images.shape[-2:]

    def answers(points: Tensor) -> Tensor:
        masks = upsampled_cells(points.view(-1, cells, cells), size)
        return masked_probabilities(model, images, masks, chunk=chunk)

    base = answers(first)
    moved = torch.zeros(places, *base.shape[1:], device=base.device)
    for place in range(places):
        points = first.clone()
        points[:, place] = second[:, place]
        moved[place] = (base - answers(points)).square().mean(0) / 2
    variance = base.var(0, unbiased=True)
    index = torch.where(variance > 1e-12, moved / variance.clamp_min(1e-12), 0)
    maps = index.permute(1, 2, 0).unflatten(2, (cells, cells))
    return nn.functional.interpolate(maps, tuple(size), mode="nearest-exact")
