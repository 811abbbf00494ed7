"""One evaluation of an embedding on unseen classes: rows gathered once, everything else read from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..collectives import gather_rows
from ..errors import RectifyError
from .operating_point import equal_error_rate
from .operating_point_inconsistency import (
    CalibrationRange,
    Utility,
    class_utility,
    epsilon_opis_of,
    inner_edges,
    opis_of,
    zoomed,
)
from .pair_histogram import PairHistogram
from .retrieval import retrieval_scores

MIN_EDGES = 64
"""Thresholds inside the FAR range below which pairs are counted again in finer bins."""


@dataclass(frozen=True)
class RetrievalEvaluation:
    """Unit vectors (N, D) of all ranks, in order of their index, and what follows from them.

    Every rank holds the same rows and must ask for the same properties in the same order: the pairs and the queries are
    divided among the ranks.

    Attributes:
        embeddings: (N, D) float32 of length 1.
        labels: (N,) int64.
        index: (N,) int64, which sample a row is.
        query: (N,) bool, the queries of a separate gallery; None if every row asks all others.
        far, c, epsilon, bins: see `OperatingPointInconsistency`.
        ks: cut-offs of Recall@k.
    """

    embeddings: Tensor
    labels: Tensor
    index: Tensor
    query: Tensor | None = None
    far: CalibrationRange = (0.01, 0.1)
    c: float = 1.0
    epsilon: float = 0.1
    bins: int = 4096
    ks: Sequence[int] = (1, 2, 4, 8)

    @cached_property
    def histogram(self) -> PairHistogram:
        """All pairs of rows, per class and bin of cosine."""
        return PairHistogram.over_ranks(self.embeddings, self.labels, self.bins)

    @cached_property
    def utility(self) -> Utility:
        """Utility of every class over the calibration range, counted again in finer bins if the range is narrow."""
        histogram = self.histogram
        if len(inner_edges(histogram, self.far)) < MIN_EDGES:
            histogram = zoomed(histogram, self.embeddings, self.labels, self.far)
        return class_utility(histogram, self.far, self.c)

    @cached_property
    def retrieval(self) -> dict[str, Tensor]:
        """Recall@k, mAP@R and R-precision, see `retrieval_scores`."""
        if self.query is None:
            return retrieval_scores(self.embeddings, self.labels, ks=self.ks)
        shelf = ~self.query
        return retrieval_scores(
            self.embeddings[self.query], self.labels[self.query], self.embeddings[shelf], self.labels[shelf], ks=self.ks
        )

    @cached_property
    def scores(self) -> dict[str, float]:
        """`recall_at_<k>`, `map_at_r`, `r_precision`, `opis`, `epsilon_opis`, `eer`, `classes_dropped`."""
        names = [*(f"recall_at_{k}" for k in self.ks), "map_at_r", "r_precision"]
        dropped = len(self.histogram.classes) - len(self.utility.classes)
        return {
            **{name: float(self.retrieval[name]) for name in names},
            "opis": opis_of(self.utility),
            "epsilon_opis": epsilon_opis_of(self.utility, self.epsilon),
            "eer": equal_error_rate(self.histogram),
            "classes_dropped": float(dropped),
        }

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """Return the global FAR and FRR at a cosine, every pair weighing the same."""
        histogram = self.histogram
        position = histogram.position(threshold)[None]
        positive, negative = (table.sum(0, keepdim=True) for table in (histogram.positive, histogram.negative))
        accepted, wrong = (histogram.accepted(table, position) / table.sum() for table in (positive, negative))
        return float(wrong), 1 - float(accepted)


class EmbeddingCollector:
    """Keeps the evaluated rows of this rank; give it every sample once (`Deduplicator`)."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._separate = False

    def add(self, embeddings: Tensor, labels: Tensor, index: Tensor, query: Tensor | None = None) -> None:
        """Keep unit vectors (n, D), labels and indices (n,) and, with a separate gallery, who asks, (n,) bool."""
        self._separate = self._separate or query is not None
        asks = torch.ones_like(labels, dtype=torch.bool) if query is None else query.bool()
        self._rows.append((embeddings.detach().float(), labels.detach(), index.detach(), asks))

    def evaluation(self, gallery_share: float | None = None, **options) -> RetrievalEvaluation:
        """Gather the rows of all ranks (every rank must call this).

        Args:
            gallery_share: this share of every class, at least one image, chosen by index, is the gallery of the rest.

        Raises:
            RectifyError: nothing was evaluated.
        """
        if not self._rows:
            raise RectifyError("retrieval: a process got no batch to evaluate; give every process at least one.")
        columns = [torch.cat(column) for column in zip(*self._rows, strict=True)]
        # bool tensors are not reduced by every backend
        gathered = [torch.cat(gather_rows(column.to(torch.uint8) if column.dtype == torch.bool else column))
                    for column in columns]  # fmt: skip
        order = gathered[2].argsort()
        embeddings, labels, index, asks = (column[order] for column in gathered)
        query = asks.bool() if self._separate else None
        if gallery_share is not None:
            query = ~_shelved(labels, index, gallery_share)
        return RetrievalEvaluation(embeddings, labels, index, query, **options)


def _shelved(labels: Tensor, index: Tensor, share: float) -> Tensor:
    """The rows of each class with the smallest hash of their index, (N,) bool."""
    mixed = (index * 2654435761) % 2**32  # Knuth's multiplicative hash: fixed, and unrelated to the order of classes
    order = torch.argsort(mixed, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    _, place, sizes = labels[order].unique_consecutive(return_inverse=True, return_counts=True)
    first = sizes.cumsum(0) - sizes
    within = torch.arange(len(labels), device=labels.device) - first[place]
    shelved = torch.zeros_like(labels, dtype=torch.bool)
    shelved[order] = within < (share * sizes[place]).round().clamp_min(1)
    return shelved
