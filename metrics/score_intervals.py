"""How far a mean score or a share would move on another sample of the same size."""

from statistics import NormalDist

import torch
from torch import Tensor


def mean_interval(total: Tensor, square: Tensor, samples: Tensor, level: float = 0.95) -> Tensor:
    """Return (low, high), the normal interval of a mean score; NaN with fewer than 2 samples.

    Args:
        total, square: scalars, the sums of the scores and of their squares.
        samples: scalar, how many.
        level: share of the interval.
    """
    mean = total / samples
    variance = (square - samples * mean.square()).clamp_min(0) / (samples - 1)
    half = _deviations(level) * (variance / samples).sqrt()
    return torch.where(samples > 1, torch.stack((mean - half, mean + half)), torch.nan)


def share_interval(hits: Tensor, samples: Tensor, level: float = 0.95) -> Tensor:
    """Return (low, high), the Wilson interval of a share, which stays inside [0, 1]; NaN without samples.

    Args:
        hits, samples: scalars.
        level: share of the interval.
    """
    z2 = _deviations(level) ** 2
    share, extra = hits / samples, z2 / samples
    centre = (share + extra / 2) / (1 + extra)
    half = (share * (1 - share) * extra + extra.square() / 4).sqrt() / (1 + extra)
    return torch.stack((centre - half, centre + half)).clamp(0, 1)


def _deviations(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
