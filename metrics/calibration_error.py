"""Binned calibration errors with a state that sums over ranks."""

from typing import get_args

import torch
from torch import Tensor

from ..errors import RectifyError
from .probabilities import Forecast, bin_of, check_bins
from .reliability import Norm, ReliabilityDiagram
from .sums import SumMetric, sum_type


class TopLabelCalibrationError(ReliabilityDiagram):
    """Expected calibration error of the most probable class (Naeini et al. 2015; Guo et al. 2017).

    `update(logits (n, K), label (n,))`. Bins are [i/B, (i+1)/B) and the last is closed, [1 - 1/B, 1]: a confidence of
    exactly 1 is averaged with its neighbours. torchmetrics 1.9 gives it a bin of its own and agrees everywhere else.

    Args:
        bins: number of equal-width bins B.
        norm: `l1` (ECE), `l2` (root mean square) or `max` (MCE).
    """

    higher_is_better = False

    def __init__(self, bins: int = 15, norm: Norm = "l1"):
        super().__init__(bins)
        if norm not in get_args(Norm):
            raise RectifyError(f"norm is {norm!r}; choose one of {', '.join(get_args(Norm))}.")
        self.norm = norm

    def compute(self) -> Tensor:  # type: ignore[override]
        return self.state().calibration_error(self.norm).float()


class SignedCalibrationGap(ReliabilityDiagram):
    """Mean confidence minus accuracy, in [-1, 1]: above 0 is over-confident, below 0 under-confident.

    `update(logits (n, K), label (n,))`. It does not depend on the bins; they are kept so that a `MetricCollection`
    shares one state between this, the calibration error and the diagram.
    """

    higher_is_better = None

    def compute(self) -> Tensor:  # type: ignore[override]
        return self.state().signed_gap().float()


def class_wise_gaps(forecast: Forecast, bins: int) -> Tensor:
    """(K, B) float64: per class and bin of its probability, the sum of probability minus one-hot label.

    n·|mean probability - frequency| of a bin is the absolute value of this sum: no counts are needed.
    """
    classes = forecast.probability.shape[1]
    where = bin_of(forecast.probability, bins)
    where += torch.arange(classes, device=where.device) * bins
    gaps = torch.zeros(classes * bins, dtype=sum_type(where.device), device=where.device)
    return gaps.index_add_(0, where.flatten(), forecast.residual.to(gaps.dtype).flatten()).view(classes, bins)


def class_wise_error(gaps: Tensor, samples: Tensor) -> Tensor:
    """(1/K) Σ_k Σ_b |gap_kb| / N of the sums of `class_wise_gaps`."""
    return gaps.abs().sum() / (len(gaps) * samples)


class ClassWiseCalibrationError(SumMetric):
    """Class-wise L1 calibration error, mean over classes: (1/K) Σ_k Σ_b n_bk/N·|frequency - mean probability|.

    `update(logits (n, K), label (n,))`; Kull et al. 2019, eq. 3, where some print the sum over classes instead. Bins as
    in `TopLabelCalibrationError`. State: K·bins + 1 numbers, reduced by sum.

    Args:
        classes: K.
        bins: number of equal-width bins.
    """

    gaps: Tensor
    samples: Tensor

    def __init__(self, classes: int, bins: int = 15):
        super().__init__()
        self.classes, self.bins = classes, check_bins(bins)
        self.add_sum("gaps", classes, bins)
        self.add_sum("samples", dtype=torch.int64)

    def update(self, logits: Tensor, label: Tensor) -> None:
        self.gaps += class_wise_gaps(Forecast.of(logits, label), self.bins)
        self.samples += len(label)

    def compute(self) -> Tensor:
        return class_wise_error(self.gaps, self.samples).float()
