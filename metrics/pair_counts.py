"""Histograms of all pairwise cosines by class, without the matrix of pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from .embeddings import exact_products

BLOCK = 4096
"""Rows and columns of a block of cosines."""
SLICE = {"cpu": 1 << 15, "cuda": 1 << 24}
"""Cosines binned at once: on a CPU few enough to stay in the cache and not to wake a second thread, which on a busy
machine costs more than the work."""


class Bins(NamedTuple):
    """`number` equal bins of cosine on [low, high]; what lies outside goes to the first or last bin."""

    number: int
    low: float
    high: float

    def place(self, cosine: Tensor) -> Tensor:
        """Return the int32 bin of each cosine; overwrites `cosine`."""
        scale = self.number / (self.high - self.low)
        return cosine.sub_(self.low).mul_(scale).clamp_(0, self.number - 1).to(torch.int32)


class Sorted(NamedTuple):
    """Embeddings in the order of their classes.

    Attributes:
        embeddings: (N, D) float32.
        place: (N,) int32, 0 … C - 1, ascending.
        classes: (C,) labels.
        host: `place` as a list.
    """

    embeddings: Tensor
    place: Tensor
    classes: Tensor
    host: list[int]

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor) -> "Sorted":
        order = labels.argsort(stable=True)
        classes, place = labels[order].unique(return_inverse=True)
        return cls(embeddings[order].float().contiguous(), place.to(torch.int32), classes, place.tolist())


def count_pairs(rows: Sorted, bins: Bins, shard: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
    """Count ordered pairs of different rows per class of the first row: positive and negative, (C, bins) int64 each.

    One pass over the upper triangle of blocks; a block of cosines serves both orders of its pairs. So a class meets all
    of its negatives, pairs with exactly one end in it, once, and each of its positives twice.

    Args:
        shard: (k, n) counts the k-th of n shares of the blocks; the shares add up to the whole in any order.
    """
    total, classes = len(rows.embeddings), len(rows.classes)
    device = rows.embeddings.device
    positive = torch.zeros(classes, bins.number, dtype=torch.int64, device=device)
    negative = torch.zeros_like(positive)
    starts = range(0, total, BLOCK)
    blocks = [(a, b) for a in starts for b in starts if b >= a]
    with exact_products():
        for a, b in blocks[shard[0] :: shard[1]]:
            left, right = slice(a, min(a + BLOCK, total)), slice(b, min(b + BLOCK, total))
            keys = bins.place(rows.embeddings[left] @ rows.embeddings[right].T)
            _add(keys, left, right, rows, positive, negative)
            if a != b:
                _add(keys.T.contiguous(), right, left, rows, positive, negative)
    return positive, negative


def _add(keys: Tensor, left: slice, right: slice, rows: Sorted, positive: Tensor, negative: Tensor) -> None:
    """Add a block of bins to the tables of the classes of its rows."""
    bins = positive.shape[1]
    columns = rows.place[right]
    step = max(1, SLICE.get(keys.device.type, 1 << 15) // keys.shape[1])
    for first in range(0, len(keys), step):
        part = keys[first : first + step]
        top = left.start + first
        low, high = rows.host[top], rows.host[top + len(part) - 1]
        here = rows.place[top : top + len(part)]
        part = part + ((here - low) * bins)[:, None]
        size = (high - low + 1) * bins
        others, own = negative[low : high + 1], positive[low : high + 1]
        others += part.view(-1).bincount(minlength=size).view(-1, bins)
        # rows are sorted by class, so most blocks hold no positive pair
        if high < rows.host[right.start] or low > rows.host[right.stop - 1]:
            continue
        same = part[here[:, None] == columns].bincount(minlength=size).view(-1, bins)
        others -= same
        own += same
        if left == right:  # a row with itself
            own -= part.diagonal(first).bincount(minlength=size).view(-1, bins)
