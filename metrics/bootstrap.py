"""How far a binned calibration figure would move on another sample of the same size."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RectifyError
from ..randomness import keyed_generator
from .reliability import Reliability


def bootstrap_replicates(data: Reliability, replicates: int = 1000, seed: int = 0) -> Reliability:
    """Return (R, B) sums of resampled data sets, drawn from the reduced sums alone.

    Hits and misses of a bin are resampled with Poisson(1) weights, which for many samples is the bootstrap; each keeps
    its bin's mean confidence, so the spread of confidence within a bin is left out. The draw depends on the sums and
    the seed only, so every rank has the same.
    """
    if replicates < 2:
        raise RectifyError(f"replicates is {replicates}; a bootstrap needs at least 2.")
    generator = keyed_generator("bootstrap", seed)
    cells = torch.stack((data.hits, data.count - data.hits)).cpu().double()
    drawn = torch.poisson(cells.expand(replicates, -1, -1), generator)
    drawn = drawn.to(data.confidence.dtype).to(data.confidence.device)  # in this order: Apple's GPUs have no float64
    count = drawn.sum(1)
    mean = data.confidence / data.count.clamp_min(1)
    return Reliability(count, drawn[:, 0], count * mean)


def bootstrap_interval(
    data: Reliability,
    score: Callable[[Reliability], Tensor] = Reliability.calibration_error,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Return (low, high), the percentile interval of a figure of the reliability sums.

    ECE has a positive bias that resampling adds once more, so its interval leans upward: read its width. Of few samples
    a replicate may hold none; such a one has no figure and is left out.

    Raises:
        RectifyError: level outside (0, 1), or fewer than 2 replicates.
    """
    if not 0 < level < 1:
        raise RectifyError(f"level is {level}; give the share of the interval, inside (0, 1).")
    values = score(bootstrap_replicates(data, replicates, seed))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype, device=values.device)
    return values.nanquantile(tails)
