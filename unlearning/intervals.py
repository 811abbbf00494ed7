"""Intervals over a few runs."""

import math
from collections.abc import Sequence


def student_interval(values: Sequence[float]) -> dict[str, float]:
    """Return `mean` and `half_interval` of the 95 % Student interval of the mean; one value has none (nan)."""
    mean, deviation, quantile = _moments(values)
    return {"mean": mean, "half_interval": quantile * deviation / math.sqrt(len(values))}


def prediction_half_width(values: Sequence[float]) -> float:
    """Return the half-width around the mean in which one more run would fall in 95 % of cases; nan for one value."""
    _, deviation, quantile = _moments(values)
    return quantile * deviation * math.sqrt(1 + 1 / len(values))


def _moments(values: Sequence[float]) -> tuple[float, float, float]:
    from scipy.special import stdtrit

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan, math.nan
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, deviation, float(stdtrit(count - 1, 0.975))
