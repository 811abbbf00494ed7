"""AggAtt: the maps of a whole data set in one picture, from the best to the worst."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..errors import RectifyError

EDGES = (0, 2, 5, 50, 95, 98, 100)


@dataclass(frozen=True)
class AggregateMaps:
    """Mean maps of bins of a data set, best first.

    Attributes:
        maps: (bins, H, W); NaN where a bin is empty.
        counts: maps in each bin.
        scores: mean score of each bin, NaN where empty.
        scale: the 99.5 % quantile of magnitudes over all bins: one colour scale for all.
        edges: of the bins, in percent of the maps.
    """

    maps: Tensor
    counts: list[int]
    scores: list[float]
    scale: float
    edges: tuple[int, ...] = EDGES

    def names(self) -> list[str]:
        """What to write over each bin."""
        return [f"{low}-{high} %" for low, high in pairwise(self.edges)]


def aggregate_maps(maps: Tensor, score: Tensor, edges: tuple[int, ...] = EDGES) -> AggregateMaps:
    """Sort maps (N, H, W) by score (N,), highest first, and average them between percentiles (Rao et al. 2022).

    Maps of equal score come in the order of their mass.

    Raises:
        RectifyError: no maps, or scores that do not fit.
    """
    if not len(maps) or score.shape != maps.shape[:1]:
        raise RectifyError(f"aggregate_maps: {len(maps)} maps and {tuple(score.shape)} scores; give one score a map.")
    mass = maps.abs().flatten(1).sum(1)
    order = np.lexsort((-mass.double().cpu().numpy(), -score.double().cpu().numpy()))
    ordered, sorted_score = maps[torch.as_tensor(order.copy())], score[torch.as_tensor(order.copy())]
    places = [round(edge * len(maps) / 100) for edge in edges]
    means, counts, scores = [], [], []
    for low, high in pairwise(places):
        counts.append(high - low)
        means.append(ordered[low:high].float().mean(0))
        scores.append(float(sorted_score[low:high].float().mean()))
    stacked = torch.stack(means)
    filled = stacked[~stacked.isnan()].abs()
    return AggregateMaps(stacked, counts, scores, float(np.quantile(filled.cpu().numpy(), 0.995)), edges)
