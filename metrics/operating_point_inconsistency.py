"""OPIS: how far the classes are from working at one threshold."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import RectifyError
from .embeddings import EmbeddingMetric
from .operating_point import distance, equal_error_rate, position_at_far, sensitivity_and_far
from .pair_histogram import PairHistogram

CalibrationRange = tuple[float, float]
THRESHOLDS = 256
"""Most thresholds inside the calibration range; more change nothing."""


class Utility(NamedTuple):
    """Utility of every class over the calibration range.

    Attributes:
        distance: (G,) thresholds as L2 distances, rising from global FAR `far[0]` to `far[1]`.
        utility: (C, G) (1+c²)·specificity·sensitivity / (c²·specificity + sensitivity).
        classes: (C,) labels.
        positives: (C,) unordered positive pairs.
    """

    distance: Tensor
    utility: Tensor
    classes: Tensor
    positives: Tensor

    def mean_over_range(self, values: Tensor) -> Tensor:
        """Average values (…, G) over the range, by trapezoids in distance."""
        width = self.distance[-1] - self.distance[0]
        if not width > 0:
            return values[..., 0]
        return torch.trapezoid(values, self.distance) / width


def class_utility(
    histogram: PairHistogram, far: CalibrationRange = (0.01, 0.1), c: float = 1.0, min_positives: int = 1
) -> Utility:
    """Return U_i(d) of every class with at least `min_positives` positive pairs between two global FARs.

    Sensitivity is the share of pairs inside the class at a distance of d or less, specificity the share of pairs with
    exactly one end in the class beyond d; c = 1 is their harmonic mean. The thresholds are the inner edges of the bins,
    where counts are exact (at most 256 of them), and the two ends of the range. Classes that are left out stay
    negatives of the others.

    Raises:
        RectifyError: the range is not inside (0, 1), c is not above 0, or no class is left.
    """
    check_range(far)
    if not c > 0:
        raise RectifyError(f"OPIS: c is {c}; it must be above 0.")
    if min_positives < 1:
        raise RectifyError(f"OPIS: min_positives is {min_positives}; a class needs 1 positive pair or more.")
    position = utility_positions(histogram, far)
    positives = histogram.positives
    usable = positives >= min_positives
    if not usable.any():
        raise RectifyError(
            f"OPIS: none of {len(positives)} classes has {min_positives} positive pairs; lower min_positives."
        )
    sensitivity, wrong = (rates[usable] for rates in sensitivity_and_far(histogram, position))
    where = distance(histogram.cosine(position))
    return Utility(where, utility_of(sensitivity, 1 - wrong, c), histogram.classes[usable], positives[usable])


def utility_of(sensitivity: Tensor, specificity: Tensor, c: float = 1.0) -> Tensor:
    """Return (1+c²)·specificity·sensitivity / (c²·specificity + sensitivity), 0 where both are 0."""
    return ((1 + c**2) * specificity * sensitivity / (c**2 * specificity + sensitivity)).nan_to_num(0.0)


def utility_positions(histogram: PairHistogram, far: CalibrationRange) -> Tensor:
    """Return the thresholds of the utility as positions on the bin axis, falling: both ends, inner edges between."""
    strict, loose = (position_at_far(histogram, rate) for rate in far)
    edges = inner_edges(histogram, far)
    kept = edges[torch.linspace(0, len(edges) - 1, min(len(edges), THRESHOLDS)).round().long()]
    return torch.cat((strict[None], kept.flip(0).to(strict), loose[None]))


def check_range(far: CalibrationRange) -> None:
    """Raise RectifyError unless 0 < far[0] < far[1] < 1."""
    if len(far) != 2 or not 0 < far[0] < far[1] < 1:
        raise RectifyError(f"OPIS: the FAR range is {tuple(far)}; it must rise inside (0, 1), e.g. 0.01 to 0.1.")


def inner_edges(histogram: PairHistogram, far: CalibrationRange) -> Tensor:
    """Return the edges of bins strictly between the two FARs, rising positions (few: count again, zoomed)."""
    strict, loose = (float(position_at_far(histogram, rate)) for rate in far)
    return torch.arange(math.floor(loose) + 1, math.ceil(strict), dtype=torch.float64)


def opis_of(utility: Utility, weights: Tensor | None = None) -> float:
    """Return the variance of the classes' utilities, averaged over the range; `weights` (C,) weigh the classes."""
    share = torch.ones_like(utility.utility[:, 0]) if weights is None else weights.to(utility.utility)
    share = (share / share.sum())[:, None]
    mean = (share * utility.utility).sum(0)
    return float(utility.mean_over_range((share * (utility.utility - mean).square()).sum(0)))


def opis(
    histogram: PairHistogram, far: CalibrationRange = (0.01, 0.1), c: float = 1.0, min_positives: int = 1
) -> float:
    """Operating-point inconsistency score: mean over classes and the calibration range of (U_i(d) - mean U(d))².

    Zhang et al. 2024, arXiv 2307.04047. Every class weighs the same; the range is that of L2 distance between two
    global FARs; classes of one image are left out.
    """
    return opis_of(class_utility(histogram, far, c, min_positives))


def positives_weighted_opis(
    histogram: PairHistogram, far: CalibrationRange = (0.01, 0.1), c: float = 1.0, min_positives: int = 1
) -> float:
    """OPIS with classes weighed by their positive pairs: less noise from small classes. Not the paper's."""
    utility = class_utility(histogram, far, c, min_positives)
    return opis_of(utility, utility.positives)


Ranking = Literal["once", "each"]


def epsilon_opis_of(utility: Utility, epsilon: float = 0.1, ranking: Ranking = "once") -> float:
    """Return ε-OPIS of utilities; see `epsilon_opis`."""
    if not 0 < epsilon <= 0.5:
        raise RectifyError(f"epsilon-OPIS: epsilon is {epsilon}; it must lie in (0, 0.5].")
    if ranking not in get_args(Ranking):
        raise RectifyError(f"epsilon-OPIS: ranking is {ranking!r}; choose one of {', '.join(get_args(Ranking))}.")
    values = utility.utility
    count = max(1, round(epsilon * len(values)))
    once = ranking == "once"
    values = values[utility.mean_over_range(values).argsort()] if once else values.sort(0).values
    return float(utility.mean_over_range((values[-count:].mean(0) - values[:count].mean(0)).square()))


def epsilon_opis(
    histogram: PairHistogram,
    far: CalibrationRange = (0.01, 0.1),
    c: float = 1.0,
    epsilon: float = 0.1,
    ranking: Ranking = "once",
    min_positives: int = 1,
) -> float:
    """Squared gap between the mean utility of the best and of the worst ε share of classes, averaged over the range.

    The share is round(ε·C) classes, at least one. Classes are ranked once, by their mean utility over the range, or
    anew at each threshold (`each`), which is never smaller.
    """
    return epsilon_opis_of(class_utility(histogram, far, c, min_positives), epsilon, ranking)


class OperatingPointInconsistency(EmbeddingMetric):
    """OPIS, ε-OPIS and EER of unit embeddings; `update(embeddings (n, D), labels (n,))`.

    `compute()` returns a dict: `opis`, `epsilon_opis`, `eer`, `positives_weighted_opis`, `classes` (counted),
    `classes_dropped` (of fewer than `min_positives` positive pairs, single images among them), and `distance_min`,
    `distance_max` of the calibration range. After it, `histogram` holds the pairs over all cosines and `utility` the
    curves of the classes. If fewer than `min_edges` edges of bins fall into the range, the pairs are counted a second
    time with all bins inside it.

    Args:
        far: global FARs between which OPIS is averaged.
        c: weight of sensitivity in the utility.
        epsilon: share of the best and of the worst classes.
        bins: of cosine, 4096 or more for published figures.
        min_positives: unordered positive pairs a class needs to be counted.
        min_edges: fewest thresholds inside the range.
    """

    higher_is_better = False

    def __init__(
        self,
        far: CalibrationRange = (0.01, 0.1),
        c: float = 1.0,
        epsilon: float = 0.1,
        bins: int = 4096,
        min_positives: int = 1,
        min_edges: int = 64,
    ):
        super().__init__()
        check_range(far)
        if bins < 64:
            raise RectifyError(f"OperatingPointInconsistency: bins is {bins}; give 64 or more, 4096 as a rule.")
        self.far, self.c, self.epsilon, self.bins = (far[0], far[1]), c, epsilon, bins
        self.min_positives, self.min_edges = min_positives, min_edges
        self.histogram: PairHistogram | None = None
        self.utility: Utility | None = None

    def compute(self) -> dict[str, Tensor]:
        embeddings, labels = self.rows()
        self.histogram = histogram = PairHistogram.over_ranks(embeddings, labels, self.bins)
        fine = histogram
        if len(inner_edges(histogram, self.far)) < self.min_edges:
            fine = zoomed(histogram, embeddings, labels, self.far)
        self.utility = utility = class_utility(fine, self.far, self.c, self.min_positives)
        values = {
            "opis": opis_of(utility),
            "epsilon_opis": epsilon_opis_of(utility, self.epsilon),
            "eer": equal_error_rate(histogram),
            "positives_weighted_opis": opis_of(utility, utility.positives),
            "classes": len(utility.classes),
            "classes_dropped": len(histogram.classes) - len(utility.classes),
            "distance_min": utility.distance[0],
            "distance_max": utility.distance[-1],
        }
        return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}

    def reset(self) -> None:
        super().reset()
        self.histogram = self.utility = None


def zoomed(histogram: PairHistogram, embeddings: Tensor, labels: Tensor, far: CalibrationRange) -> PairHistogram:
    """Count the pairs again with all bins around the calibration range. Every rank must hold all rows and call this."""
    strict, loose = (position_at_far(histogram, rate).cpu() for rate in far)
    # whole bins, and one more on either side, so that the open ends of the new range lie outside the calibration range
    low = float(histogram.cosine(loose.floor() - 1).clamp_min(-1))
    high = float(histogram.cosine(strict.ceil() + 1).clamp_max(1))
    return PairHistogram.over_ranks(embeddings, labels, histogram.bins, low, high)
