"""Selective prediction: the error of the samples one keeps when the least confident are left out first."""

import torch
from torch import Tensor

from .confidence_histogram import ConfidenceHistogram


def area_under_risk_coverage(data: ConfidenceHistogram) -> Tensor:
    """Return AURC, the mean over k of the error rate among the k most confident samples; NaN without samples.

    Geifman and El-Yaniv 2017. Samples of one cell, or of one confidence, come in random order: the value is the
    expectation over it, in closed form, so it depends on no sorting.
    """
    if not data.samples:
        return data.confidence.new_tensor(torch.nan)
    cells = _Cells(data)
    ahead = cells.wrong_before * cells.harmonic + cells.wrong * (1 - cells.before * cells.harmonic / cells.count)
    return ahead.sum() / data.samples


def best_area(data: ConfidenceHistogram) -> Tensor:
    """Return the AURC of the same errors if all of them came last: what E-AURC subtracts.

    Exact for N samples; the often used r + (1 - r)·ln(1 - r) of the error rate r is its limit.
    """
    count, hits = data.samples.to(data.confidence.dtype), data.hits.sum().to(data.confidence.dtype)
    return (count - hits - hits * _harmonic(hits, count)) / count


def risk_coverage_bound(data: ConfidenceHistogram) -> Tensor:
    """Return how far `area_under_risk_coverage` may be from the exact value: all errors first or last in each cell."""
    if not data.width or not data.samples:
        return data.confidence.new_zeros(())
    c = _Cells(data)
    right = c.count - c.wrong
    guess = c.wrong_before * c.harmonic + c.wrong * (1 - c.before * c.harmonic / c.count)
    tail = _harmonic(c.before + right, c.before + c.count)
    least = c.wrong_before * c.harmonic + c.wrong - (c.before + right) * tail
    head = _harmonic(c.before, c.before + c.wrong)
    most = c.wrong_before * c.harmonic + c.wrong * (c.harmonic - head) + c.wrong - c.before * head
    return torch.maximum(most - guess, guess - least).clamp_min(0).sum() / data.samples


class _Cells:
    """Filled cells from the most confident down."""

    def __init__(self, data: ConfidenceHistogram):
        data = data.filled()
        self.count = data.count.flip(0).to(data.confidence.dtype)
        self.wrong = (data.count - data.hits).flip(0).to(data.confidence.dtype)
        self.before = self.count.cumsum(0) - self.count
        self.wrong_before = self.wrong.cumsum(0) - self.wrong
        self.harmonic = _harmonic(self.before, self.before + self.count)


def _harmonic(start: Tensor, stop: Tensor) -> Tensor:
    """Σ 1/k over start < k ≤ stop."""
    return torch.digamma(stop + 1) - torch.digamma(start + 1)
