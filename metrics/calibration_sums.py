"""All calibration figures of a run from one pass over the logits."""

from dataclasses import dataclass

from torch import Tensor

from .calibration_error import class_wise_error, class_wise_gaps
from .probabilities import Forecast
from .reliability import Reliability, ReliabilityDiagram


@dataclass
class CalibrationResult:
    """What `CalibrationSums.compute()` gives.

    Attributes:
        scores: float32 scalars by log key, without the stage: `ece_top_label_l1`, `ece_class_wise_l1`, `signed_gap`,
            `nll`, `brier`.
        reliability: the binned sums behind them, for the diagram.
    """

    scores: dict[str, Tensor]
    reliability: Reliability


class CalibrationSums(ReliabilityDiagram):
    """Top-label and class-wise ECE, signed gap, NLL, Brier score and reliability diagram from one pass.

    `update(logits (n, K), label (n,))`; each figure equals that of its own metric class. State: (K + 3)·bins + 2
    numbers, reduced by sum.

    Args:
        classes: K.
        bins: equal-width bins, the last one closed on the right.
    """

    gaps: Tensor
    nll: Tensor
    brier: Tensor

    def __init__(self, classes: int, bins: int = 15):
        super().__init__(bins)
        self.classes = classes
        self.add_sum("gaps", classes, bins)
        self.add_sum("nll")
        self.add_sum("brier")

    def update(self, logits: Tensor, label: Tensor) -> None:
        forecast = Forecast.of(logits, label)
        self.add(Reliability.of(forecast, self.bins))
        self.gaps += class_wise_gaps(forecast, self.bins)
        self.nll += forecast.negative_log_likelihood().sum(dtype=self.nll.dtype)
        self.brier += forecast.brier().sum(dtype=self.brier.dtype)

    def compute(self) -> CalibrationResult:  # type: ignore[override]
        reliability = super().compute()
        samples = reliability.samples
        scores = {
            "ece_top_label_l1": reliability.calibration_error("l1"),
            "ece_class_wise_l1": class_wise_error(self.gaps, samples),
            "signed_gap": reliability.signed_gap(),
            "nll": self.nll / samples,
            "brier": self.brier / samples,
        }
        return CalibrationResult({name: score.float() for name, score in scores.items()}, reliability)
