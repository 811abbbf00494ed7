"""Calibration error over bins that hold equally many samples (adaptive binning)."""

import torch
from torch import Tensor

from .confidence_histogram import ConfidenceHistogram
from .reliability import Norm


def equal_mass_error(data: ConfidenceHistogram, bins: int = 15, norm: Norm = "l1") -> Tensor:
    """Return the top-label calibration error over B bins of N/B samples each, in order of confidence.

    A bin's edge at i·N/B may fall inside a cell or a tie: the cell's sums are then divided in proportion. l1 is what
    Nguyen and O'Connor (2015) and most papers call adaptive ECE; netcal's ACE has no weights and Nixon's is class-wise,
    which are other figures. NaN without samples.
    """
    if not data.samples:
        return data.confidence.new_tensor(torch.nan)
    gaps = _mean_gaps(data, bins)
    return _length(gaps, norm)


def equal_mass_bound(data: ConfidenceHistogram, bins: int = 15, norm: Norm = "l1") -> Tensor:
    """Return how far `equal_mass_error` may be from the exact value.

    A cut that leaves f of a cell's n samples below it may have any hits from max(0, f - misses) to min(f, hits) there,
    and confidences from the cell's lower end up to its mean. The two bins at a cut are moved by that.
    """
    if not data.width or not data.samples:
        return data.confidence.new_zeros(())
    data = data.filled()
    total, place, share = _cuts(data, bins)
    count, hits, low = data.count[place], data.hits[place], data.ends()[0][place]
    kept = share * count
    mean, rate = data.confidence[place] / count, hits / count
    most = kept * mean - (kept - (count - hits)).clamp_min(0)
    least = kept * low - torch.minimum(kept, hits)
    guess = kept * (mean - rate)
    shift = torch.maximum(most - guess, guess - least).clamp_min(0)
    zero = shift.new_zeros(1)
    moved = (torch.cat((shift, zero)) + torch.cat((zero, shift))) * bins / total
    return _length(moved, norm)


def _cuts(data: ConfidenceHistogram, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """N, and of the inner edges the filled cell they fall into and the share of it that lies below."""
    upto = data.count.cumsum(0).to(data.confidence.dtype)
    target = upto[-1] * torch.arange(1, bins, device=upto.device, dtype=upto.dtype) / bins
    place = torch.searchsorted(upto, target).clamp_max(len(upto) - 1)
    return upto[-1], place, 1 - (upto[place] - target) / data.count[place]


def _mean_gaps(data: ConfidenceHistogram, bins: int) -> Tensor:
    data = data.filled()
    total, place, share = _cuts(data, bins)
    gap = data.confidence - data.hits
    upto = gap.cumsum(0)
    at_cuts = upto[place] - (1 - share) * gap[place]
    return torch.cat((at_cuts, upto[-1:])).diff(prepend=upto.new_zeros(1)) * bins / total


def _length(gaps: Tensor, norm: Norm) -> Tensor:
    gaps = gaps.abs()
    return gaps.max() if norm == "max" else gaps.mean() if norm == "l1" else gaps.square().mean().sqrt()
