"""Kolmogorov-Smirnov calibration error: no bins, the largest cumulated gap (Gupta et al. 2021)."""

import torch
from torch import Tensor

from .confidence_histogram import ConfidenceHistogram


def ks_error(data: ConfidenceHistogram) -> Tensor:
    """Return max_k |1/N Σ_{i ≤ k} (confidence_i - hit_i)| over the samples in rising confidence; NaN without samples.

    A histogram looks only at the ends of its cells, so it is never above the exact value (`ks_bound`).
    """
    if not data.samples:
        return data.confidence.new_tensor(torch.nan)
    return (data.confidence - data.hits).cumsum(0).abs().max() / data.samples


def ks_bound(data: ConfidenceHistogram) -> Tensor:
    """Return by how much the exact value may exceed `ks_error`.

    Inside a cell the sum climbs by at most its misses times the cell's upper end, and falls by at most its hits times
    one minus the lower end, from either end of the cell.
    """
    if not data.width or not data.samples:
        return data.confidence.new_zeros(())
    data = data.filled()
    low, high = data.ends()
    after = (data.confidence - data.hits).cumsum(0)
    before = after - (data.confidence - data.hits)
    climb, fall = (data.count - data.hits) * high, data.hits * (1 - low)
    above = torch.minimum(before + climb, after + fall)
    below = torch.minimum(fall - before, climb - after)
    return (torch.maximum(above, below).max() / data.samples - ks_error(data)).clamp_min(0)
