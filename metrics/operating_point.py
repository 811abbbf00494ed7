"""Verification at a threshold, from a `PairHistogram`: rates over all pairs, curves, and the rates of each class.

FAR is the share of negative pairs that are accepted, FRR the share of positive pairs that are not. Every pair weighs
the same in the global rates, so large classes dominate FRR; the rates of a class are its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import RectifyError
from .pair_histogram import PairHistogram


class Curve(NamedTuple):
    """Global rates at the inner edges of the bins, from the strictest threshold to the loosest.

    Attributes:
        cosine: thresholds, falling.
        far: false accept rate, rising.
        frr: false reject rate, falling.
    """

    cosine: Tensor
    far: Tensor
    frr: Tensor

    @property
    def tar(self) -> Tensor:
        """True accept rate, 1 - FRR."""
        return 1 - self.frr

    @property
    def distance(self) -> Tensor:
        """Thresholds as L2 distances of unit vectors, rising."""
        return distance(self.cosine)


def distance(cosine: Tensor) -> Tensor:
    """L2 distance of unit vectors at a cosine: √(2 - 2s)."""
    return (2 - 2 * cosine).clamp_min(0).sqrt()


def _above(counts: Tensor) -> Tensor:
    """Pairs at or above each edge B … 0, (B + 1,) int64: falling threshold, rising count."""
    rising = counts.flip(0).cumsum(0)
    return torch.cat((rising.new_zeros(1), rising))


def _totals(histogram: PairHistogram) -> tuple[Tensor, Tensor]:
    positive, negative = (_above(counts) for counts in histogram.pooled)
    if not positive[-1]:
        raise RectifyError(
            f"operating point: {len(histogram.classes)} classes hold no positive pair; "
            "evaluate classes with two images or more."
        )
    return positive.double() / positive[-1], negative.double() / negative[-1]


def roc(histogram: PairHistogram) -> Curve:
    """Return FAR and FRR (TAR is 1 - FRR) at every inner edge of the bins."""
    tar, far = _totals(histogram)
    edges = torch.arange(histogram.bins, -1, -1, device=tar.device, dtype=torch.float64)
    cosine = histogram.cosine(edges)
    return Curve(cosine[1:-1], far[1:-1], 1 - tar[1:-1])


def det(histogram: PairHistogram) -> tuple[Tensor, Tensor]:
    """Return the DET curve, FAR and FRR as normal deviates (probits), where both lie inside (0, 1)."""
    curve = roc(histogram)
    drawn = (curve.far > 0) & (curve.far < 1) & (curve.frr > 0) & (curve.frr < 1)
    return torch.special.ndtri(curve.far[drawn]), torch.special.ndtri(curve.frr[drawn])


def position_at_far(histogram: PairHistogram, far: float) -> Tensor:
    """Return where on the bin axis the global FAR reaches `far`, coming from the strict side."""
    if not 0 < far < 1:
        raise RectifyError(f"FAR is {far}; it must lie in (0, 1).")
    _, rate = _totals(histogram)
    after = torch.searchsorted(rate, torch.tensor(far, dtype=rate.dtype, device=rate.device)).clamp(1, histogram.bins)
    share = (far - rate[after - 1]) / (rate[after] - rate[after - 1])
    return histogram.bins - (after - 1 + share)


def threshold_at_far(histogram: PairHistogram, far: float) -> float:
    """Return the cosine at which the global FAR is `far`, linear inside a bin.

    Fitted on the classes that are reported it is an oracle's threshold; fit it on calibration classes.
    """
    return float(histogram.cosine(position_at_far(histogram, far)))


def tar_at_far(histogram: PairHistogram, far: float) -> float:
    """Return the share of positive pairs accepted where the global FAR is `far`."""
    position = position_at_far(histogram, far)[None]
    positive = histogram.pooled[0]
    return float(histogram.accepted(positive[None], position) / positive.sum())


def equal_error_rate(histogram: PairHistogram) -> float:
    """Return the rate at which global FAR and FRR cross, linear inside a bin."""
    tar, far = _totals(histogram)
    gap = far - (1 - tar)  # -1 at the strictest threshold, rising to 1
    after = int(torch.searchsorted(gap, torch.zeros((), dtype=gap.dtype, device=gap.device)).clamp(1, histogram.bins))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


class ClassRates(NamedTuple):
    """Rates at one threshold, one entry per class.

    Attributes:
        classes: (C,) labels.
        far: (C,) share of the pairs with exactly one end in the class that are accepted.
        frr: (C,) share of the pairs inside the class that are not; NaN for a class of one image.
    """

    classes: Tensor
    far: Tensor
    frr: Tensor


def class_rates(histogram: PairHistogram, threshold: float) -> ClassRates:
    """Return every class's FAR and FRR at one cosine, linear inside a bin.

    Raises:
        RectifyError: the threshold lies outside the histogram's range.
    """
    if not histogram.low <= threshold <= histogram.high:
        raise RectifyError(
            f"threshold is {threshold}; the histogram covers cosines from {histogram.low} to {histogram.high}."
        )
    accepted, wrong = sensitivity_and_far(histogram, histogram.position(threshold)[None])
    return ClassRates(histogram.classes, wrong[:, 0], 1 - accepted[:, 0])


def sensitivity_and_far(histogram: PairHistogram, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 - FRR and FAR of every class at positions (G,) on the bin axis, (C, G) each."""
    tables = zip((histogram.positive, histogram.negative), histogram.per_class, strict=True)
    accepted, wrong = (histogram.accepted(table, position) / size[:, None] for table, size in tables)
    return accepted, wrong
