"""Do maps lie where the evidence is? Grids of images of which each cell holds one class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from .layers import find_layer
from .score import logits_of

Saliency = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GridResult:
    """One row a grid and explained cell.

    Attributes:
        score: (N,) share of the positive attribution that lies in the cell; chance is 1/cells².
        maps: (N, cells·H, cells·W).
        place: (N,) the explained cell, counted by rows.
    """

    score: Tensor
    maps: Tensor
    place: Tensor


def image_grids(images: Tensor, cells: int = 2) -> Tensor:
    """Return grids (B / cells², C, cells·H, cells·W) of consecutive images (B, C, H, W), row by row.

    Raises:
        RectifyError: the number of images is no multiple of cells².
    """
    if cells < 1 or not len(images) or len(images) % (cells * cells):
        raise RectifyError(f"image_grids: {len(images)} images do not fill grids of {cells}x{cells}.")
    grids = images.unflatten(0, (-1, cells, cells))
    return grids.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def cell_share(maps: Tensor, place: Tensor, cells: int = 2) -> Tensor:
    """Return (N,) the positive attribution inside cell `place` over all of it; 0 if there is none."""
    height, width = maps.shape[1] // cells, maps.shape[2] // cells
    parts = maps.clamp_min(0).unflatten(2, (cells, width)).unflatten(1, (cells, height)).sum((2, 4)).flatten(1)
    total = parts.sum(1)
    inside = parts.gather(1, place[:, None].to(parts.device)).squeeze(1)
    return torch.where(total > 1e-7, inside / total.clamp_min(1e-7), torch.zeros_like(total))


def grid_pointing_game(
    model: nn.Module, images: Tensor, target: Tensor, saliency: Saliency, cells: int = 2
) -> GridResult:
    """Explain the class of each cell of grids of images, with one head over the whole grid (Böhle et al. 2021).

    The model must take images `cells` times as large. Choose images it is sure of, of different classes in a grid.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W); consecutive ones make a grid.
        target: (B,) int64, the class of each.
        saliency: `(model, images, target) -> maps (B, H, W)`.
        cells: images on a side of a grid.

    Raises:
        RectifyError: images that do not fill grids.
    """
    return _game(lambda place: model, images, target, saliency, cells)


def disconnected_grid_game(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    saliency: Saliency,
    cells: int = 2,
    layer: str | nn.Module | None = None,
) -> GridResult:
    """The same with features computed cell by cell, so that no other cell can have any influence (DiFull, Rao 2022).

    A gradient's attribution outside the cell must then be exactly 0, which tests the method and not the model.

    Args:
        layer: for a method that reads a layer: the layer, whose outputs the method sees as those of the whole grid.
    """
    return _game(lambda place: DisconnectedGrid(model, cells, place, layer), images, target, saliency, cells)


class DisconnectedGrid(nn.Module):
    """A model of grids that looks at one cell and runs all of them, each on its own.

    Args:
        backbone: a model of single images.
        cells: images on a side of a grid.
        place: the cell whose logits are returned, counted by rows.
        layer: a layer whose outputs hooks see put together to a grid.
    """

    def __init__(self, backbone: nn.Module, cells: int, place: int, layer: str | nn.Module | None = None):
        super().__init__()
        self.backbone, self.cells, self.place, self.layer = backbone, cells, place, layer

    def forward(self, grid: Tensor) -> Tensor:
        single = self._apart(grid)
        if self.layer is None:
            logits = logits_of(self.backbone, single)
        else:
            _, module = find_layer(self, self.layer)
            first = module.register_forward_hook(
                lambda _, inputs, output: image_grids(output, self.cells), prepend=True
            )
            last = module.register_forward_hook(lambda _, inputs, output: self._apart(output))
            try:
                logits = logits_of(self.backbone, single)
            finally:
                first.remove()
                last.remove()
        return logits.unflatten(0, (len(grid), -1))[:, self.place]

    def _apart(self, grid: Tensor) -> Tensor:
        height, width = grid.shape[2] // self.cells, grid.shape[3] // self.cells
        parts = grid.unflatten(3, (self.cells, width)).unflatten(2, (self.cells, height))
        return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _game(model_of: Any, images: Tensor, target: Tensor, saliency: Saliency, cells: int) -> GridResult:
    grids = image_grids(images, cells)
    classes = target.view(-1, cells * cells)
    maps = [saliency(model_of(place), grids, classes[:, place]) for place in range(cells * cells)]
    place = torch.arange(cells * cells, device=images.device).repeat_interleave(len(grids))
    whole = torch.cat(maps)
    return GridResult(cell_share(whole, place, cells), whole, place)
