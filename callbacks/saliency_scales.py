"""One colour scale for each method and layer, fixed at a reference epoch, so that epochs can be compared."""

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from ..attribution.methods import METHODS
from .panel_study import Row
from .saliency_figure import MapRow, usual_scale

Scales = dict[str, tuple[float, int]]  # method@layer -> (strongest value, the epoch that fixed it)


def scaled_row(scales: Scales, row: Row, maps: Tensor, fix: int | None) -> MapRow:
    """Return the row to draw; its scale is the fixed one, which is fixed now where there is none.

    Args:
        scales: may gain an entry.
        maps: (n, H, W).
        fix: the current epoch if it is to fix scales, as `fixing_epoch` says.
    """
    signed = METHODS[row.method].signed
    if row.scale_key in scales:
        return MapRow(row.title, maps, *scales[row.scale_key], signed)
    scale = usual_scale(maps)
    if fix is None or not maps.any():  # maps that are all zero fix nothing
        return MapRow(row.title, maps, scale, None, signed)
    scales[row.scale_key] = scale, fix
    return MapRow(row.title, maps, scale, fix, signed)


def prediction_row(
    scales: Scales, row: Row, maps: dict[str, Tensor], others: dict[str, Tensor], wrong: Tensor
) -> MapRow:
    """Return the row of the predictions' maps, blank where the prediction is the label, in the scale of the labels'.

    Args:
        maps, others: (n, H, W) by row key, of the labels and of the predictions.
        wrong: (n, 1, 1) bool.
    """
    scale, reference = scales.get(row.scale_key, (usual_scale(maps[row.key]), None))
    shown = others[row.key].where(wrong, torch.nan)
    return MapRow(row.title, shown, scale, reference, METHODS[row.method].signed, "of the prediction")


def fixing_epoch(trainer: Trainer, reference: int | None) -> int | None:
    """Return the current epoch from the one on that fixes scales, by default a quarter of `max_epochs`; else None."""
    if reference is None:
        reference = max(trainer.max_epochs or 0, 0) // 4
    return trainer.current_epoch if trainer.state.fn == "fit" and trainer.current_epoch >= reference else None
