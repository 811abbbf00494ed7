"""The one state behind every verification metric: how many pairs of each class lie at which cosine."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..collectives import rank, sum_over_ranks, world_size
from ..errors import RectifyError
from .embeddings import check_embeddings
from .pair_counts import Bins, Sorted, count_pairs

CLASSES_AT_ONCE = 1024


@dataclass(frozen=True)
class PairHistogram:
    """Integer counts of ordered pairs, per class of the first row and bin of cosine.

    Counts of disjoint shares of the pairs of one data set add up with `merge`, in any order. A pair is accepted at a
    threshold if its cosine is at or above it. Bins have equal width in cosine; the first and last are open outwards.

    Attributes:
        positive: (C, B) int64, pairs inside the class, each counted in both orders.
        negative: (C, B) int64, pairs with exactly one end in the class.
        classes: (C,) labels, ascending; classes of one image are among them (their images are negatives of others).
        low: cosine at the left edge of the first bin.
        high: cosine at the right edge of the last bin.
    """

    positive: Tensor
    negative: Tensor
    classes: Tensor
    low: float = -1.0
    high: float = 1.0

    @classmethod
    def of(
        cls,
        embeddings: Tensor,
        labels: Tensor,
        bins: int = 4096,
        low: float = -1.0,
        high: float = 1.0,
        shard: tuple[int, int] = (0, 1),
    ) -> "PairHistogram":
        """Count the pairs of unit vectors (N, D) with labels (N,), in blocks; memory is 16·C·B bytes and some blocks.

        Args:
            shard: (k, n) counts the k-th of n shares of the pairs.

        Raises:
            RectifyError: embeddings are not of length 1, labels are no integers, or hold one class only.
        """
        check_embeddings("PairHistogram", embeddings, labels)
        if bins < 2 or not -1 <= low < high <= 1:
            raise RectifyError(f"PairHistogram: {bins} bins on [{low}, {high}]; give 2 or more inside [-1, 1].")
        rows = Sorted.of(embeddings.detach(), labels)
        if len(rows.classes) < 2:
            raise RectifyError(
                f"PairHistogram: all {len(labels)} labels are of one class, so there is no negative pair; "
                "evaluate two classes or more."
            )
        positive, negative = count_pairs(rows, Bins(bins, low, high), shard)
        return cls(positive, negative, rows.classes, low, high)

    @classmethod
    def over_ranks(
        cls, embeddings: Tensor, labels: Tensor, bins: int = 4096, low: float = -1.0, high: float = 1.0
    ) -> "PairHistogram":
        """As `of`, for rows that every rank holds in full: the ranks divide the pairs and add up the counts."""
        own = cls.of(embeddings, labels, bins, low, high, (rank(), world_size()))
        return replace(own, positive=sum_over_ranks(own.positive), negative=sum_over_ranks(own.negative))

    def merge(self, other: "PairHistogram") -> "PairHistogram":
        """Add the counts of other pairs of the same classes, bins and range."""
        same = (self.low, self.high, self.bins) == (other.low, other.high, other.bins)
        if not same or not torch.equal(self.classes, other.classes):
            raise RectifyError("PairHistogram.merge: classes, bins and range must be the same in both.")
        return replace(self, positive=self.positive + other.positive, negative=self.negative + other.negative)

    @property
    def bins(self) -> int:
        return self.positive.shape[1]

    @property
    def positives(self) -> Tensor:
        """(C,) unordered positive pairs of each class."""
        return self.per_class[0] // 2

    @property
    def singletons(self) -> int:
        """Classes without a positive pair."""
        return int((self.per_class[0] == 0).sum())

    @cached_property
    def per_class(self) -> tuple[Tensor, Tensor]:
        """(C,) ordered positive and negative pairs of each class."""
        return self.positive.sum(1), self.negative.sum(1)

    @cached_property
    def pooled(self) -> tuple[Tensor, Tensor]:
        """(B,) ordered positive and negative pairs of all classes in each bin."""
        return self.positive.sum(0), self.negative.sum(0)

    def only(self, kept: Tensor) -> "PairHistogram":
        """Return the tables of some classes (bool (C,)); their negatives stay those against all classes."""
        return replace(self, positive=self.positive[kept], negative=self.negative[kept], classes=self.classes[kept])

    def cosine(self, position: Tensor) -> Tensor:
        """Return the cosine at a position on the bin axis, where edge k is at position k."""
        return self.low + position * ((self.high - self.low) / self.bins)

    def position(self, cosine: Tensor | float) -> Tensor:
        """Return the position of a cosine on the bin axis, in [0, B]."""
        cosine = torch.as_tensor(cosine, dtype=torch.float64)
        return ((cosine - self.low) * (self.bins / (self.high - self.low))).clamp(0, self.bins)

    def accepted(self, table: Tensor, position: Tensor) -> Tensor:
        """Return how many pairs of each row of a table (C, B) lie at or above positions (G,), (C, G) float64.

        Exact at the edges of bins; inside a bin its pairs count as spread evenly.
        """
        position = position.to(table.device)
        edge = position.floor().long().clamp(max=self.bins - 1)
        inside = position - edge
        out = torch.empty(len(table), len(position), dtype=torch.float64, device=table.device)
        for first in range(0, len(table), CLASSES_AT_ONCE):  # the sums of all classes at once would double the memory
            part = table[first : first + CLASSES_AT_ONCE]
            above = part.flip(1).cumsum(1).flip(1)
            here = part[:, edge]
            out[first : first + CLASSES_AT_ONCE] = above[:, edge] - here * inside
        return out
