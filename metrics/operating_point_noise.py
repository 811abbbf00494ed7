"""How much OPIS the size of the classes makes by itself."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import RectifyError
from .operating_point import distance
from .operating_point_inconsistency import CalibrationRange, Utility, opis_of, utility_of, utility_positions
from .pair_histogram import PairHistogram

Independent = Literal["images", "pairs"]


def opis_noise_floor(
    histogram: PairHistogram,
    far: CalibrationRange = (0.01, 0.1),
    c: float = 1.0,
    min_positives: int = 1,
    draws: int = 20,
    independent: Independent = "images",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return OPIS of resampled data in which all classes are alike, (draws,): what lies below it is sampling noise.

    Each draw gives every class the pooled sensitivity and specificity, and draws its positive pairs anew: as many as it
    has (`pairs`, as if pairs were independent, a lower bound of the noise), or as many as its images make disjoint
    pairs (`images`, ⌊n/2⌋, an upper bound).

    Args:
        generator: on the CPU; one with a fixed seed by default.
    """
    if independent not in get_args(Independent):
        raise RectifyError(f"noise floor: independent is {independent!r}; choose images or pairs.")
    if draws < 1:
        raise RectifyError(f"noise floor: draws is {draws}; it must be 1 or more.")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    position = utility_positions(histogram, far)
    rates = [(histogram.accepted(counts[None], position) / counts.sum()).cpu() for counts in histogram.pooled]
    sensitivity, specificity = rates[0][0], 1 - rates[1]
    positives = histogram.positives.cpu()
    positives = positives[positives >= min_positives]
    # n (n - 1) / 2 pairs come from n images
    images = ((1 + (1 + 8 * positives.double()).sqrt()) / 2).round().long()
    size = positives if independent == "pairs" else (images // 2).clamp_min(1)
    owner = torch.repeat_interleave(torch.arange(len(size)), size)
    where = distance(histogram.cosine(position)).cpu()
    found = []
    for _ in range(draws):
        # a pair drawn at quantile u is accepted from the first threshold on whose pooled sensitivity reaches u
        first = torch.searchsorted(sensitivity, torch.rand(len(owner), generator=generator, dtype=torch.float64))
        table = torch.zeros(len(size), len(position) + 1, dtype=torch.float64)
        table.index_put_((owner, first), torch.ones(len(owner), dtype=torch.float64), accumulate=True)
        drawn = table.cumsum(1)[:, :-1] / size[:, None]
        utility = Utility(where, utility_of(drawn, specificity, c), size, positives)
        found.append(opis_of(utility))
    return torch.tensor(found, dtype=torch.float64)
