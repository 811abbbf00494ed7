"""Exact one-dimensional k-means."""

import torch
from torch import Tensor


def cluster_sizes(value: Tensor, weight: Tensor, clusters: int) -> Tensor:
    """Return how many of the sorted points (n,) fall into each of the k clusters of least weighted squared distance.

    Clusters on a line are intervals, so dynamic programming over their ends finds the optimum, where Lloyd's iteration
    may stop elsewhere. O(k·n²) in vectors; the n ≥ k points may stand for many samples each (`weight`).
    """
    n = len(value)
    value, weight = value.double(), weight.double()
    zero = value.new_zeros(1)
    mass, first, second = (torch.cat((zero, (weight * value**power).cumsum(0))) for power in (0, 1, 2))
    total = mass[None, :] - mass[:, None]  # of the points i … j-1 at [i, j]
    spread = (first[None, :] - first[:, None]).square() / total.clamp_min(1e-300)
    cost = (second[None, :] - second[:, None] - spread).clamp_min(0)
    cost = cost.masked_fill(torch.ones(n + 1, n + 1, dtype=torch.bool, device=value.device).tril(), torch.inf)
    best, starts = cost[0], []
    for _ in range(clusters - 1):
        best, start = (best[:, None] + cost).min(0)
        starts.append(start)
    ends = [n]
    for start in reversed(starts):
        ends.append(int(start[ends[-1]]))
    return torch.tensor([0, *ends[::-1]], device=value.device).diff()


def interval_clusters(ranked: Tensor, clusters: int, points: int = 128) -> Tensor:
    """Return the cluster (n,) int64 of each of the sorted values (n,), exact on groups of equal count."""
    points = min(points, len(ranked))
    edge = torch.arange(points + 1, device=ranked.device) * len(ranked) // points
    size = edge.diff()
    upto = torch.cat((ranked.new_zeros(1, dtype=torch.float64), ranked.double().cumsum(0)))
    sizes = cluster_sizes(upto[edge].diff() / size, size, min(clusters, points))
    group = torch.repeat_interleave(torch.arange(len(sizes), device=ranked.device), sizes)
    return torch.repeat_interleave(group, size)
