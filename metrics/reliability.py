"""The binned state of top-label calibration: counts, hits and confidence per bin."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .probabilities import Forecast, bin_of, check_bins
from .sums import SumMetric, sum_type

Norm = Literal["l1", "l2", "max"]


@dataclass  # not frozen: torchmetrics rebuilds what compute() returns
class Reliability:
    """Sums per confidence bin, of which every top-label figure is computed.

    Attributes:
        count: (B,) int64 samples.
        hits: (B,) int64 samples whose most probable class is the label.
        confidence: (B,) float64 sum of the largest probability.
    """

    count: Tensor
    hits: Tensor
    confidence: Tensor

    @classmethod
    def of(cls, forecast: Forecast, bins: int) -> "Reliability":
        """Sum up one batch."""
        confidence, prediction = forecast.probability.max(1)
        where = bin_of(confidence, bins)
        hit = prediction.eq(forecast.label).long()
        count, hits = (torch.zeros(bins, dtype=torch.int64, device=where.device) for _ in range(2))
        total = torch.zeros(bins, dtype=sum_type(where.device), device=where.device)
        return cls(
            count.index_add_(0, where, torch.ones_like(where)),
            hits.index_add_(0, where, hit),
            total.index_add_(0, where, confidence.to(total.dtype)),
        )

    @property
    def bins(self) -> int:
        return len(self.count)

    @property
    def samples(self) -> Tensor:
        """Scalar int64."""
        return self.count.sum()

    @property
    def accuracy(self) -> Tensor:
        """(B,) share of hits; NaN in an empty bin."""
        return self.hits / self.count.to(self.confidence.dtype)

    @property
    def mean_confidence(self) -> Tensor:
        """(B,) mean largest probability; NaN in an empty bin."""
        return self.confidence / self.count

    def signed_gap(self) -> Tensor:
        """Mean confidence minus accuracy: above 0 is over-confident, below 0 under-confident; NaN without samples."""
        return (self.confidence.sum() - self.hits.sum()) / self.samples

    def calibration_error(self, norm: Norm = "l1") -> Tensor:
        """Top-label calibration error over the bins; NaN without samples.

        l1: Σ n_b/N·|acc_b - conf_b| (ECE). l2: its root mean square. max: the largest gap (MCE).
        """
        gap = self.hits - self.confidence  # n_b · (acc_b - conf_b)
        if norm == "l1":
            return gap.abs().sum() / self.samples
        mean_gap = gap / self.count.clamp_min(1)
        if norm == "l2":
            return (mean_gap * gap).sum().div(self.samples).sqrt()
        return torch.where(self.samples > 0, mean_gap.abs().max(), torch.nan)


class ReliabilityDiagram(SumMetric):
    """The data of a reliability diagram: `update(logits (n, K), label (n,))`, `compute()` gives a `Reliability`.

    State: 3·bins numbers, reduced by sum; whoever draws from `compute()` draws what all ranks saw.

    Args:
        bins: equal-width bins of the largest probability, the last one closed on the right.
    """

    higher_is_better: bool | None = None
    count: Tensor
    hits: Tensor
    confidence: Tensor

    def __init__(self, bins: int = 15):
        super().__init__()
        self.bins = check_bins(bins)
        self.add_sum("count", bins, dtype=torch.int64)
        self.add_sum("hits", bins, dtype=torch.int64)
        self.add_sum("confidence", bins)

    def update(self, logits: Tensor, label: Tensor) -> None:
        self.add(Reliability.of(Forecast.of(logits, label), self.bins))

    def add(self, batch: Reliability) -> None:
        """Add the sums of a batch."""
        self.count += batch.count
        self.hits += batch.hits
        self.confidence += batch.confidence

    def state(self) -> Reliability:
        """The sums as they stand on this rank (inside `compute`: of all ranks)."""
        return Reliability(self.count, self.hits, self.confidence)

    def compute(self) -> Reliability:
        return Reliability(self.count.clone(), self.hits.clone(), self.confidence.clone())
