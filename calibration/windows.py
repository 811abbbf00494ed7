"""The objective of h-calibration: the gap between probability and outcome in sliding windows, without bins."""

import torch
from torch import Tensor

from .clusters import interval_clusters


def window_means(value: Tensor, half: int) -> Tensor:
    """Return (n,) means over 2·half + 1 neighbours, zeros beyond the ends."""
    upto = torch.cat((value.new_zeros(1), value.cumsum(0)))
    place = torch.arange(len(value), device=value.device)
    after, before = (place + half + 1).clamp_max(len(value)), (place - half).clamp_min(0)
    return (upto[after] - upto[before]) / (2 * half + 1)


def windowed_gap(
    probability: Tensor, outcome: Tensor, half: int = 100, clusters: int = 15, tolerance: float = 0.0
) -> Tensor:
    """Return a differentiable bound on the canonical calibration error, a scalar (h-calibration, 2025).

    All class probabilities of all samples stand in one line, sorted. The signed gap p - y is averaged over windows of
    2·half + 1 neighbours, what exceeds `tolerance` in size counts, and its mean is taken within each cluster of
    probability and then over clusters, so that the many probabilities near 0 do not drown the rest. The order and the
    clusters are constants of the gradient.

    Args:
        probability: (n, K).
        outcome: (n, K) one-hot labels.
        half: neighbours on each side.
        clusters: of exact one-dimensional k-means on the probabilities.
        tolerance: size of gap that costs nothing (ε).
    """
    flat, hit = probability.flatten(), outcome.flatten()
    order = flat.detach().argsort(stable=True)
    ranked = flat[order]
    gap = window_means(ranked - hit[order], half)
    excess = (gap.abs() - tolerance).clamp_min(0)
    group = interval_clusters(ranked.detach(), clusters)
    count = torch.bincount(group).to(excess.dtype)
    return (torch.zeros_like(count).index_add(0, group, excess) / count).mean()
