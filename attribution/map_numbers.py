"""What can be said of a map in one number, so that epochs compare: mass, entropy, Gini, drift."""

import math

import torch
from torch import Tensor

from ..errors import RectifyError


def map_statistics(maps: Tensor) -> dict[str, Tensor]:
    """Return mass, entropy and Gini coefficient of the magnitudes of maps (B, H, W), each (B,).

    - `mass`: the mean magnitude;
    - `entropy`: that of the magnitudes taken as a distribution over pixels, over log(H·W): 1 is spread evenly;
    - `gini`: 0 is spread evenly, near 1 is all in one pixel.

    A map that is 0 everywhere counts as spread evenly.
    """
    flat = maps.detach().double().abs().flatten(1)
    pixels = flat.shape[1]
    total = flat.sum(1)
    even = torch.full_like(flat, 1 / pixels)
    share = torch.where(total[:, None] > 0, flat / total.clamp_min(1e-300)[:, None], even)
    entropy = torch.special.entr(share).sum(1) / max(math.log(pixels), 1e-12)
    place = torch.arange(1, pixels + 1, device=flat.device, dtype=flat.dtype)
    gini = ((2 * place - pixels - 1) * share.sort(1).values).sum(1) / pixels
    return {"mass": total / pixels, "entropy": entropy.clamp(0, 1), "gini": gini.clamp(0, 1)}


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation (B,) of maps (B, H, W), ties at their mean rank.

    Where a map is constant nothing is ranked: two constant maps count as 1, one as 0.

    Raises:
        RectifyError: maps of different shapes.
    """
    if first.shape != second.shape or first.ndim < 2:
        raise RectifyError(f"rank_correlation: maps {tuple(first.shape)} and {tuple(second.shape)} do not compare.")
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spread_a, spread_b = a.square().sum(1), b.square().sum(1)
    both = (spread_a == 0) & (spread_b == 0)
    found = (a * b).sum(1) / (spread_a * spread_b).sqrt().clamp_min(1e-12)
    return torch.where(both, torch.ones_like(found), found)


def map_drift(maps: Tensor, before: Tensor) -> Tensor:
    """Return 1 - rank correlation (B,) with the maps before: 0 is the same order of pixels, 1 none in common."""
    return 1 - rank_correlation(maps, before)


def _ranks(maps: Tensor) -> Tensor:
    """Ranks (B, pixels) with ties at their mean: the mean of how many are below and how many are not above."""
    flat = maps.detach().double().flatten(1).contiguous()
    ordered = flat.sort(1).values
    below = torch.searchsorted(ordered, flat, right=False)
    not_above = torch.searchsorted(ordered, flat, right=True)
    return (below + not_above).double() / 2
