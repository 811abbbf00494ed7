"""All calibration figures of a run from one pass over the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .bootstrap import bootstrap_interval
from .class_bins import ClassBins, brier_parts
from .confidence_histogram import CELLS, ConfidenceHistogram, check_cells
from .equal_mass import equal_mass_error
from .forecast_metric import check_classes
from .kolmogorov_smirnov import ks_error
from .reliability import Reliability, ReliabilityDiagram
from .score_intervals import mean_interval, share_interval
from .selective_risk import area_under_risk_coverage, best_area
from .smooth_calibration import smooth_error

LOGGED = (
    *("ece_top_label_l1", "ece_top_label_l1_low", "ece_top_label_l1_high", "ece_top_label_l2", "ece_top_label_max"),
    *("ece_top_label_l1_debiased", "ece_top_label_l2_debiased", "ece_top_label_equal_mass", "ece_top_label_smooth"),
    *("ks_top_label", "signed_gap", "over_confidence", "under_confidence", "aurc", "e_aurc"),
    *("calibration_samples", "calibration_bins", "ece_class_wise_l1", "nll", "brier"),
    *("brier_reliability", "brier_resolution", "brier_uncertainty", "brier_within"),
)
"""The names of `CalibrationResult.scores`, for whoever must know them before anything is counted."""


@dataclass
class CalibrationResult:
    """What `CalibrationSums.compute()` gives.

    Attributes:
        scores: float32 scalars by log key, without the stage; the table is in docs/log_keys.md.
        intervals: (low, high) of `ece_top_label_l1`, `nll`, `brier` and `error`, 95 %.
        reliability: the binned sums behind them, for the diagram.
        histogram: the fine sums of top-label confidence.
    """

    scores: dict[str, Tensor]
    intervals: dict[str, Tensor]
    reliability: Reliability
    histogram: ConfidenceHistogram


class CalibrationSums(ReliabilityDiagram):
    """Every calibration figure of this room from one pass.

    `update(logits (n, K), label (n,))`; each figure equals that of its own metric class. State: (3·K + 3)·bins +
    3·cells + 4 numbers, reduced by sum.

    Args:
        classes: K.
        bins: equal-width bins, the last one closed on the right; equal-mass bins are as many.
        cells: of the fine histogram behind the KS, smooth, equal-mass and AURC figures.
    """

    hurried = False
    classes: int
    class_count: Tensor
    class_hits: Tensor
    gaps: Tensor
    cell_count: Tensor
    cell_hits: Tensor
    cell_confidence: Tensor
    nll: Tensor
    brier: Tensor
    nll_square: Tensor
    brier_square: Tensor

    def __init__(self, classes: int, bins: int = 15, cells: int = CELLS):
        super().__init__(bins)
        self.classes, self.cells = check_classes(classes, type(self).__name__), check_cells(cells)
        self.add_sum("class_count", classes, bins, dtype=torch.int64)
        self.add_sum("class_hits", classes, bins, dtype=torch.int64)
        self.add_sum("gaps", classes, bins)
        self.add_sum("cell_count", cells, dtype=torch.int64)
        self.add_sum("cell_hits", cells, dtype=torch.int64)
        self.add_sum("cell_confidence", cells)
        for name in ("nll", "brier", "nll_square", "brier_square"):
            self.add_sum(name)

    def update(self, logits: Tensor, label: Tensor) -> None:
        forecast = self.forecast(logits, label)
        self.add(forecast)
        classes, cells = ClassBins.of(forecast, self.bins), ConfidenceHistogram.of(forecast, self.cells)
        self.class_count += classes.count
        self.class_hits += classes.hits
        self.gaps += classes.gap
        self.cell_count += cells.count
        self.cell_hits += cells.hits
        self.cell_confidence += cells.confidence
        nll = forecast.negative_log_likelihood().to(self.nll.dtype)
        brier = forecast.brier().to(self.brier.dtype)
        self.nll += nll.sum()
        self.brier += brier.sum()
        self.nll_square += nll.square().sum()
        self.brier_square += brier.square().sum()

    def compute(self) -> CalibrationResult:  # type: ignore[override]
        """Return all figures.

        Raises:
            RectifyError: a logit was NaN, or the logits were probabilities.
        """
        reliability = super().compute()
        samples = reliability.samples
        cells = (self.cell_count.clone(), self.cell_hits.clone(), self.cell_confidence.clone())
        histogram = ConfidenceHistogram(*cells, 1 / self.cells)
        bins = ClassBins(self.class_count, self.class_hits, self.gaps)
        scores = {
            **top_label_scores(reliability, histogram),
            "ece_class_wise_l1": bins.class_wise_error(),
            "nll": self.nll / samples,
            "brier": self.brier / samples,
        }
        parts = brier_parts(bins, scores["brier"])
        for name in ("reliability", "resolution", "uncertainty", "within"):
            scores[f"brier_{name}"] = getattr(parts, name)
        intervals = {
            "ece_top_label_l1": torch.stack([scores[f"ece_top_label_l1_{end}"] for end in ("low", "high")]),
            "nll": mean_interval(self.nll, self.nll_square, samples),
            "brier": mean_interval(self.brier, self.brier_square, samples),
            "error": share_interval((samples - reliability.hits.sum()).to(self.nll.dtype), samples),
        }
        plain = {name: score.float() for name, score in scores.items()}
        return CalibrationResult(plain, intervals, reliability, histogram)


def top_label_scores(reliability: Reliability, histogram: ConfidenceHistogram) -> dict[str, Tensor]:
    """Every figure of the most probable class by its log key, with the 95 % bootstrap interval of ECE."""
    interval = bootstrap_interval(reliability) if reliability.samples else torch.full((2,), torch.nan)
    area = area_under_risk_coverage(histogram)
    return {
        "ece_top_label_l1": reliability.calibration_error("l1"),
        "ece_top_label_l1_low": interval[0],
        "ece_top_label_l1_high": interval[1],
        "ece_top_label_l2": reliability.calibration_error("l2"),
        "ece_top_label_max": reliability.calibration_error("max"),
        "ece_top_label_l1_debiased": reliability.calibration_error("l1", debiased=True),
        "ece_top_label_l2_debiased": reliability.calibration_error("l2", debiased=True),
        "ece_top_label_equal_mass": equal_mass_error(histogram, reliability.bins),
        "ece_top_label_smooth": smooth_error(histogram),
        "ks_top_label": ks_error(histogram),
        "signed_gap": reliability.signed_gap(),
        "over_confidence": reliability.over_confidence(),
        "under_confidence": reliability.under_confidence(),
        "aurc": area,
        "e_aurc": area - best_area(histogram),
        "calibration_samples": reliability.samples,
        "calibration_bins": torch.tensor(reliability.bins, device=reliability.count.device),
    }
