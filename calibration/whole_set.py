"""Scores of logits that one process holds whole."""

from typing import Any

from torch import Tensor
from torchmetrics import Metric


def score_whole(metric: Metric, logits: Tensor, label: Tensor) -> Any:
    """Return what a new metric says of logits (n, K) and labels (n,), without adding anything up over ranks.

    A map is fitted on a whole split, by rank 0 alone or by each rank for itself: a metric that met the other ranks in
    `compute` would wait for them, or count every sample once a rank.
    """
    metric = metric.to(logits.device)
    metric.distributed_available_fn = lambda: False
    metric.update(logits, label)
    return metric.compute()
