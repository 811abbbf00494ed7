"""Binned sums of every class's probability, of which class-wise errors and the Brier parts are computed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .probabilities import Forecast, bin_of
from .sums import sum_type


@dataclass
class ClassBins:
    """Sums per class and bin of the class's probability.

    Attributes:
        count: (K, B) int64 samples whose probability of the class falls into the bin.
        hits: (K, B) int64 those among them whose label is the class.
        gap: (K, B) float64 sum of probability minus one-hot label.
    """

    count: Tensor
    hits: Tensor
    gap: Tensor

    @classmethod
    def of(cls, forecast: Forecast, bins: int) -> "ClassBins":
        """Sum up one batch."""
        where = _places(forecast, bins)
        flat = where.flatten()
        count, hits = (torch.zeros(where.shape[1] * bins, dtype=torch.int64, device=flat.device) for _ in range(2))
        count.index_add_(0, flat, torch.ones_like(flat))
        own = where.gather(1, forecast.label[:, None])[:, 0]
        hits.index_add_(0, own, torch.ones_like(own))
        return cls(count.view(-1, bins), hits.view(-1, bins), _gaps(forecast, where, bins))

    @property
    def samples(self) -> Tensor:
        """Scalar int64."""
        return self.count[0].sum()

    def class_wise_error(self) -> Tensor:
        """(1/K) Σ_k Σ_b |gap_kb| / N; NaN without samples."""
        return self.gap.abs().sum() / (len(self.gap) * self.samples)


@dataclass
class BrierParts:
    """The multi-class Brier score and what it is made of: brier = reliability - resolution + uncertainty + within.

    Attributes:
        brier: mean Σ_k (p_k - y_k)².
        reliability: how far the probabilities of a bin are from its frequencies; 0 is calibrated.
        resolution: how far the frequencies of the bins are from that of the whole set; large is good.
        uncertainty: Σ_k of the class's variance, Σ_k ȳ_k(1 - ȳ_k); the data's alone.
        within: what the spread of probabilities inside the bins leaves over; small for many bins.
    """

    brier: Tensor
    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within: Tensor


def brier_parts(bins: ClassBins, brier: Tensor) -> BrierParts:
    """Split a mean Brier score over the class bins (Murphy 1973; the remainder after Stephenson et al. 2008)."""
    total = bins.samples.to(bins.gap.dtype)
    count = bins.count.clamp_min(1)
    base = bins.hits.sum(1, keepdim=True) / total
    share = bins.count / total
    reliability = (share * (bins.gap / count).square()).sum()
    resolution = (share * (bins.hits / count - base).square()).sum()
    uncertainty = (base * (1 - base)).sum()
    return BrierParts(brier, reliability, resolution, uncertainty, brier - reliability + resolution - uncertainty)


def class_gaps(forecast: Forecast, bins: int) -> Tensor:
    """(K, B) float64: per class and bin of its probability, the sum of probability minus one-hot label.

    n·|mean probability - frequency| of a bin is the absolute value of this sum: no counts are needed.
    """
    return _gaps(forecast, _places(forecast, bins), bins)


def _places(forecast: Forecast, bins: int) -> Tensor:
    """(n, K) the place of each probability among K·B."""
    where = bin_of(forecast.probability, bins)
    where += torch.arange(where.shape[1], device=where.device) * bins
    return where


def _gaps(forecast: Forecast, where: Tensor, bins: int) -> Tensor:
    gap = torch.zeros(where.shape[1] * bins, dtype=sum_type(where.device), device=where.device)
    return gap.index_add_(0, where.flatten(), forecast.residual.to(gap.dtype).flatten()).view(-1, bins)
