"""Binned calibration errors with a state that sums over ranks."""

from typing import get_args

import torch
from torch import Tensor

from ..errors import RectifyError
from .class_bins import class_gaps
from .forecast_metric import ForecastMetric, check_classes
from .probabilities import check_bins
from .reliability import Norm, ReliabilityDiagram


class TopLabelCalibrationError(ReliabilityDiagram):
    """Expected calibration error of the most probable class (Naeini et al. 2015; Guo et al. 2017).

    `update(logits (n, K), label (n,))`. Bins are [i/B, (i+1)/B) and the last is closed, [1 - 1/B, 1]: a confidence of
    exactly 1 is averaged with its neighbours. torchmetrics 1.9 gives it a bin of its own and agrees everywhere else.

    Args:
        bins: number of equal-width bins B.
        norm: `l1` (ECE), `l2` (root mean square) or `max` (MCE).
        debiased: without the part that few samples a bin add to it (`debiased_error`); not for `max`.
    """

    higher_is_better = False

    def __init__(self, bins: int = 15, norm: Norm = "l1", debiased: bool = False):
        super().__init__(bins)
        if norm not in get_args(Norm):
            raise RectifyError(f"norm is {norm!r}; choose one of {', '.join(get_args(Norm))}.")
        if debiased and norm == "max":
            raise RectifyError("norm is 'max', which has no debiased form; choose l1 or l2, or set debiased false.")
        self.norm, self.debiased = norm, debiased

    def compute(self) -> Tensor:  # type: ignore[override]
        return self.state().calibration_error(self.norm, self.debiased).float()


class SignedCalibrationGap(ReliabilityDiagram):
    """Mean confidence minus accuracy, in [-1, 1]: above 0 is over-confident, below 0 under-confident.

    `update(logits (n, K), label (n,))`. It does not depend on the bins; they are kept so that a `MetricCollection`
    shares one state between this, the calibration error and the diagram.
    """

    higher_is_better = None

    def compute(self) -> Tensor:  # type: ignore[override]
        return self.state().signed_gap().float()


class OverConfidence(ReliabilityDiagram):
    """Σ_b n_b/N·max(confidence - accuracy, 0), in [0, 1]: `update(logits (n, K), label (n,))`.

    With `UnderConfidence` it adds up to the L1 calibration error of the same bins.

    Args:
        bins: number of equal-width bins.
        weighted: times the bin's confidence (Thulasidasan et al. 2019), so that the sum no longer holds.
    """

    higher_is_better = False

    def __init__(self, bins: int = 15, weighted: bool = False):
        super().__init__(bins)
        self.weighted = weighted

    def compute(self) -> Tensor:  # type: ignore[override]
        return self.state().over_confidence(self.weighted).float()


class UnderConfidence(OverConfidence):
    """Σ_b n_b/N·max(accuracy - confidence, 0), as `OverConfidence`."""

    def compute(self) -> Tensor:  # type: ignore[override]
        return self.state().under_confidence(self.weighted).float()


class ClassWiseCalibrationError(ForecastMetric):
    """Class-wise L1 calibration error, mean over classes: (1/K) Σ_k Σ_b n_bk/N·|frequency - mean probability|.

    `update(logits (n, K), label (n,))`; Kull et al. 2019, eq. 3, where some print the sum over classes instead. Bins as
    in `TopLabelCalibrationError`. State: K·bins + 1 numbers, reduced by sum.

    Args:
        classes: K.
        bins: number of equal-width bins.
    """

    classes: int
    gaps: Tensor
    samples: Tensor

    def __init__(self, classes: int, bins: int = 15):
        super().__init__()
        self.classes, self.bins = check_classes(classes, type(self).__name__), check_bins(bins)
        self.add_sum("gaps", classes, bins)
        self.add_sum("samples", dtype=torch.int64)

    def update(self, logits: Tensor, label: Tensor) -> None:
        self.gaps += class_gaps(self.forecast(logits, label), self.bins)
        self.samples += len(label)

    def compute(self) -> Tensor:
        self.refuse_bad(self.gaps)
        return (self.gaps.abs().sum() / (self.classes * self.samples)).float()
