"""How much the evidence a model looks at has moved: rank correlation of saliency maps."""

import torch
from torch import Tensor

from ..errors import RectifyError


def map_rank_correlation(before: Tensor, after: Tensor) -> Tensor:
    """Return (n,) Spearman correlations of two saliency maps of each image, in [-1, 1], ties at their mean rank.

    Take the maps of `attribution.input_gradient` for the true class on the forget set, of the original and of the
    unlearned model, and compare with those of the original and a retrained model. A constant map correlates as 0.

    Args:
        before, after: (n, ...) maps of the same images.
    """
    if before.shape != after.shape or before.ndim < 2:
        raise RectifyError(f"Saliency maps of shapes {tuple(before.shape)} and {tuple(after.shape)} do not compare.")
    first, second = (_centred_ranks(maps.flatten(1)) for maps in (before, after))
    norm = (first.square().sum(1) * second.square().sum(1)).sqrt()
    return ((first * second).sum(1) / norm.clamp_min(1e-12)).where(norm > 0, 0.0)


def _centred_ranks(values: Tensor) -> Tensor:
    ordered = values.sort(1).values.contiguous()
    values = values.contiguous()
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to).double() / 2 - values.shape[1] / 2
