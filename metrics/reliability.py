"""The binned state of top-label calibration: counts, hits and confidence per bin."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .debiased import debiased_error
from .forecast_metric import ForecastMetric
from .probabilities import Forecast, bin_of, check_bins
from .sums import sum_type

Norm = Literal["l1", "l2", "max"]


@dataclass  # not frozen: torchmetrics rebuilds what compute() returns
class Reliability:
    """Sums per confidence bin, of which every binned top-label figure is computed.

    Leading dimensions are allowed: `bootstrap_replicates` gives (R, B), and every figure is then (R,).

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
        return cls.binned(bin_of(forecast.confidence, bins), forecast.confidence, forecast.hit, bins)

    @classmethod
    def binned(cls, where: Tensor, confidence: Tensor, hit: Tensor, bins: int) -> "Reliability":
        """Sum up samples (n,) whose bins are known."""
        count, hits = (torch.zeros(bins, dtype=torch.int64, device=where.device) for _ in range(2))
        total = torch.zeros(bins, dtype=sum_type(where.device), device=where.device)
        own = cls(count, hits, total)
        own.add_(where, confidence, hit)
        return own

    def add_(self, where: Tensor, confidence: Tensor, hit: Tensor) -> None:
        """Add samples (n,) whose bins are known, in place."""
        self.count.index_add_(0, where, torch.ones_like(where))
        self.hits.index_add_(0, where, hit.long())
        self.confidence.index_add_(0, where, confidence.to(self.confidence.dtype))

    @property
    def bins(self) -> int:
        return self.count.shape[-1]

    @property
    def samples(self) -> Tensor:
        """Scalar int64."""
        return self.count.sum(-1)

    @property
    def accuracy(self) -> Tensor:
        """(B,) share of hits; NaN in an empty bin."""
        return self.hits / self.count.to(self.confidence.dtype)

    @property
    def mean_confidence(self) -> Tensor:
        """(B,) mean largest probability; NaN in an empty bin."""
        return self.confidence / self.count

    @property
    def gap_sum(self) -> Tensor:
        """(B,) n_b · (mean confidence - accuracy): above 0 the bin is over-confident."""
        return self.confidence - self.hits

    def signed_gap(self) -> Tensor:
        """Mean confidence minus accuracy: above 0 is over-confident, below 0 under-confident; NaN without samples."""
        return self.gap_sum.sum(-1) / self.samples

    def calibration_error(self, norm: Norm = "l1", debiased: bool = False) -> Tensor:
        """Top-label calibration error over the bins; NaN without samples.

        l1: Σ n_b/N·|acc_b - conf_b| (ECE). l2: its root mean square. max: the largest gap (MCE).

        Args:
            norm: of the gaps.
            debiased: subtract what the noise of the accuracies adds (`l1` and `l2`), see `debiased_error`.
        """
        if debiased:
            return debiased_error(self, norm)
        gap = self.gap_sum
        if norm == "l1":
            return gap.abs().sum(-1) / self.samples
        mean_gap = gap / self.count.clamp_min(1)
        if norm == "l2":
            return (mean_gap * gap).sum(-1).div(self.samples).sqrt()
        return torch.where(self.samples > 0, mean_gap.abs().amax(-1), torch.nan)

    def over_confidence(self, weighted: bool = False) -> Tensor:
        """Σ n_b/N·max(conf_b - acc_b, 0); with `weighted` times conf_b (Thulasidasan et al. 2019)."""
        return self._one_side(self.gap_sum, weighted)

    def under_confidence(self, weighted: bool = False) -> Tensor:
        """Σ n_b/N·max(acc_b - conf_b, 0); with the over-confidence it adds up to ECE, their difference is the gap."""
        return self._one_side(-self.gap_sum, weighted)

    def _one_side(self, gap: Tensor, weighted: bool) -> Tensor:
        weight = self.confidence / self.count.clamp_min(1) if weighted else 1.0
        return (gap.clamp_min(0) * weight).sum(-1) / self.samples


class ReliabilityDiagram(ForecastMetric):
    """The data of a reliability diagram: `update(logits (n, K), label (n,))`, `compute()` gives a `Reliability`.

    State: 3·bins numbers, reduced by sum; whoever draws from `compute()` draws what all ranks saw.

    Args:
        bins: equal-width bins of the largest probability, the last one closed on the right.
    """

    higher_is_better: bool | None = None
    hurried = True
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
        self.add(self.forecast(logits, label))

    def add(self, forecast: Forecast) -> None:
        """Add a batch."""
        sums = Reliability(self.count, self.hits, self.confidence)
        sums.add_(bin_of(forecast.confidence, self.bins), forecast.confidence, forecast.hit)

    def state(self) -> Reliability:
        """The sums as they stand on this rank (inside `compute`: of all ranks).

        Raises:
            RectifyError: a logit was NaN, or the logits were probabilities.
        """
        self.refuse_bad(self.confidence)
        return Reliability(self.count, self.hits, self.confidence)

    def compute(self) -> Reliability:
        sums = self.state()
        return Reliability(sums.count.clone(), sums.hits.clone(), sums.confidence.clone())
