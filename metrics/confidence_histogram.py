"""A fine histogram of confidence, of which order statistics are computed with a known error."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import RectifyError
from .probabilities import Forecast
from .reliability import Reliability
from .sums import sum_type

CELLS = 4096


@dataclass
class ConfidenceHistogram:
    """Sums per cell of confidence, cells in rising order.

    In a cell [i/M, (i+1)/M) (the last one closed) the order of the samples is not known. What follows from the
    histogram is what a random order within each cell gives in expectation; the bounds are over every possible order.
    In exact mode a cell holds the samples of one confidence value, and only true ties are in it.

    Attributes:
        count: (M,) int64 samples.
        hits: (M,) int64 samples whose most probable class is the label.
        confidence: (M,) float64 sum of the largest probability.
        width: of a cell, 1/M; 0 in exact mode.
    """

    count: Tensor
    hits: Tensor
    confidence: Tensor
    width: float

    @classmethod
    def of(cls, forecast: Forecast, cells: int) -> "ConfidenceHistogram":
        """Sum up one batch."""
        where = (forecast.confidence * cells).long().clamp_(0, cells - 1)  # exact: cells is a power of two
        sums = Reliability.binned(where, forecast.confidence, forecast.hit, cells)
        return cls(sums.count, sums.hits, sums.confidence, 1 / cells)

    @classmethod
    def exact(cls, confidence: Tensor, hit: Tensor) -> "ConfidenceHistogram":
        """Group samples (n,) by their very confidence."""
        value, where = confidence.to(sum_type(confidence.device)).unique(sorted=True, return_inverse=True)
        sums = Reliability.binned(where, confidence, hit, len(value))
        return cls(sums.count, sums.hits, sums.confidence, 0.0)

    @property
    def samples(self) -> Tensor:
        """Scalar int64."""
        return self.count.sum()

    def filled(self) -> "ConfidenceHistogram":
        """Return the cells that hold a sample; their number depends on the data, so this waits for the device."""
        kept = self.count > 0
        return ConfidenceHistogram(self.count[kept], self.hits[kept], self.confidence[kept], self.width)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest confidence that a filled cell can hold."""
        mean = self.confidence / self.count
        if not self.width:
            return mean, mean
        low = ((mean / self.width).floor() * self.width).clamp(max=1 - self.width)
        return low, low + self.width


def check_cells(cells: int) -> int:
    """Return `cells`, or raise RectifyError unless it is a power of two from 16 to 2^20."""
    if not 16 <= cells <= 2**20 or cells & (cells - 1):
        raise RectifyError(f"cells is {cells}; give a power of two from 16 to 1048576, such as 4096.")
    return cells
