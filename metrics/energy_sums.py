"""The energies of images and of their attacked versions, as histograms that add up."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .sums import SumMetric

REACH, WIDTH = 64.0, 0.0625
BINS = int(2 * REACH / WIDTH)


@dataclass  # not frozen: torchmetrics rebuilds what compute() returns
class Energies:
    """Sums over an evaluation. An energy is E(x) = -logsumexp(logits), in nats.

    Attributes:
        samples: int64.
        totals: (3,) float64 sums of E(x), E(x_adv) and ΔE = E(x) - E(x_adv).
        histograms: (3, BINS) int64 counts of the same over [-REACH, REACH), what lies outside in the outermost bins.
    """

    samples: Tensor
    totals: Tensor
    histograms: Tensor

    @property
    def means(self) -> tuple[float, float, float]:
        """Of E(x), E(x_adv) and ΔE; NaN without samples."""
        clean, attacked, gap = (self.totals / self.samples).tolist()
        return clean, attacked, gap


class EnergySums(SumMetric):
    """`update(clean logits (n, K), attacked logits (n, K))`, `compute()` gives `Energies`.

    A ΔE that falls sharply during training goes with robust overfitting (arXiv 2407.06315). State: 3·BINS + 4 numbers,
    reduced by sum.
    """

    higher_is_better: bool | None = None
    samples: Tensor
    totals: Tensor
    histograms: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("samples", dtype=torch.int64)
        self.add_sum("totals", 3)
        self.add_sum("histograms", 3, BINS, dtype=torch.int64)

    def update(self, clean: Tensor, attacked: Tensor) -> None:
        energy, other = (-torch.logsumexp(logits.to(self.totals.dtype), 1) for logits in (clean, attacked))
        values = torch.stack((energy, other, energy - other))
        self.samples += values.shape[1]
        self.totals += values.sum(1)
        place = ((values + REACH) / WIDTH).floor().long().clamp(0, BINS - 1)
        self.histograms.scatter_add_(1, place, torch.ones_like(place))

    def compute(self) -> Energies:
        return Energies(self.samples.clone(), self.totals.clone(), self.histograms.clone())
