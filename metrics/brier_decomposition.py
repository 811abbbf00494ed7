"""The Brier score in parts, with a state of sums."""

import torch
from torch import Tensor

from .class_bins import BrierParts, ClassBins, brier_parts
from .forecast_metric import ForecastMetric, check_classes
from .probabilities import check_bins


class BrierDecomposition(ForecastMetric):
    """Brier score, reliability, resolution and uncertainty over all classes: `compute()` gives `BrierParts`.

    `update(logits (n, K), label (n,))`. State: 3·K·bins + 1 numbers, reduced by sum.

    Args:
        classes: K.
        bins: equal-width bins of each class's probability, the last one closed on the right.
    """

    classes: int
    class_count: Tensor
    class_hits: Tensor
    gaps: Tensor
    brier: Tensor

    def __init__(self, classes: int, bins: int = 15):
        super().__init__()
        self.classes, self.bins = check_classes(classes, type(self).__name__), check_bins(bins)
        self.add_sum("class_count", classes, bins, dtype=torch.int64)
        self.add_sum("class_hits", classes, bins, dtype=torch.int64)
        self.add_sum("gaps", classes, bins)
        self.add_sum("brier")

    def update(self, logits: Tensor, label: Tensor) -> None:
        forecast = self.forecast(logits, label)
        batch = ClassBins.of(forecast, self.bins)
        self.class_count += batch.count
        self.class_hits += batch.hits
        self.gaps += batch.gap
        self.brier += forecast.brier().sum(dtype=self.brier.dtype)

    def compute(self) -> BrierParts:
        self.refuse_bad(self.brier)
        bins = ClassBins(self.class_count, self.class_hits, self.gaps)
        return brier_parts(bins, self.brier / bins.samples)
