"""The k-th smallest of many values in two passes over them, without sorting or concatenating."""

from collections.abc import Sequence

import torch
from torch import Tensor


def kth_smallest(values: Sequence[Tensor], k: int) -> Tensor:
    """Return the k-th smallest (k ≥ 1) of all entries of non-negative tensors, as a float32 scalar.

    The bit patterns of non-negative floats are ordered as the floats: the upper 15 bits are counted first, then the
    lower 16 of those that share them. Nothing is read back to the host, unlike in `radix_thresholds`, which is not made
    for every step. Entries are compared in float32.
    """
    upper = _counts(values, None)
    high, before = _place(upper, k)
    low, _ = _place(_counts(values, high), k - before)
    return ((high << 16) | low).to(torch.int32).view(torch.float32)


def _counts(values: Sequence[Tensor], high: Tensor | None) -> Tensor:
    """Count entries by the upper half of their bits, or by the lower half of those whose upper half is `high`."""
    counts = torch.zeros(1 << 16, dtype=torch.int64, device=values[0].device)
    for value in values:
        bits = value.detach().float().contiguous().view(-1).view(torch.int32).long()
        place, inside = (bits >> 16, None) if high is None else (bits & 0xFFFF, (bits >> 16) == high)
        counts.index_add_(0, place, torch.ones_like(place) if inside is None else inside.long())
    return counts


def _place(counts: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the bin that holds the k-th entry and how many entries lie in bins before it."""
    reached = counts.cumsum(0)
    place = (reached < k).sum()
    # `take`, because indexing by a scalar tensor reads it back to the host
    return place, reached.take(place) - counts.take(place)
