"""Retrieval metrics at scale: nearest neighbours in chunks, scores of all queries at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..collectives import gather_rows, rank, sum_over_ranks, world_size
from ..errors import RectifyError
from .embeddings import EmbeddingMetric, check_embeddings, exact_products

COSINES = 1 << 25
"""Cosines held at once, 128 MB in float32."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest gallery rows of some queries.

    Attributes:
        query: (n,) row of each query.
        index: (n, k) gallery rows, nearest first; the query itself is not among them.
        cosine: (n, k) falling.
        relevant: (n, k) bool, of the query's class.
        count: (n,) relevant rows in the whole gallery, without the query.
    """

    query: Tensor
    index: Tensor
    cosine: Tensor
    relevant: Tensor
    count: Tensor


@dataclass(frozen=True)
class QueryScores:
    """Scores of each query, in [0, 1]; where `count` is 0 they are 0 and mean nothing.

    Attributes:
        recall: (n, len(ks)) 1 if a relevant row is among the first k.
        map_at_r: (n,) 1/R Σ_{i≤R} precision@i over the relevant i, R = `count`.
        r_precision: (n,) relevant share of the first R.
        count: (n,) R.
    """

    recall: Tensor
    map_at_r: Tensor
    r_precision: Tensor
    count: Tensor


def neighbours(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    k: int = 1,
    rows: Tensor | None = None,
) -> Neighbours:
    """Find the k nearest gallery rows by cosine; without a gallery, the other queries.

    Equal cosines come in no defined order.

    Args:
        query: (Q, D) unit vectors.
        gallery: (G, D) unit vectors.
        rows: (n,) queries to answer; all by default.

    Raises:
        RectifyError: a query's class is missing in the gallery.
    """
    sides = _sides(query, query_labels, gallery, gallery_labels)
    rows = torch.arange(len(query), device=query.device) if rows is None else rows
    return _nearest(sides, _relevant_counts(sides)[rows], rows, k)


class _Sides(NamedTuple):
    query: Tensor
    query_labels: Tensor
    gallery: Tensor
    gallery_labels: Tensor
    same: bool  # the gallery is the queries


def _sides(query: Tensor, query_labels: Tensor, gallery: Tensor | None, gallery_labels: Tensor | None) -> _Sides:
    check_embeddings("retrieval", query, query_labels)
    if gallery is None or gallery_labels is None:
        return _Sides(query.float(), query_labels, query.float(), query_labels, True)
    check_embeddings("retrieval", gallery, gallery_labels)
    missing = query_labels[~torch.isin(query_labels, gallery_labels)].unique()
    if len(missing):
        raise RectifyError(
            f"retrieval: {len(missing)} query classes are missing in the gallery, {int(missing[0])} first; "
            "add their images to the gallery or drop these queries."
        )
    return _Sides(query.float(), query_labels, gallery.float(), gallery_labels, False)


def _nearest(sides: _Sides, count: Tensor, rows: Tensor, k: int) -> Neighbours:
    k = min(k, len(sides.gallery) - sides.same)
    if k < 1:
        raise RectifyError(f"retrieval: the gallery holds {len(sides.gallery)} images; nothing is left to retrieve.")
    index = torch.empty(len(rows), k, dtype=torch.int64, device=rows.device)
    cosine = torch.empty(len(rows), k, device=rows.device)
    chunk = max(1, COSINES // len(sides.gallery))
    with exact_products():
        for first in range(0, len(rows), chunk):
            part = rows[first : first + chunk]
            similarity = sides.query[part] @ sides.gallery.T
            if sides.same:
                similarity.scatter_(1, part[:, None], -torch.inf)
            best = similarity.topk(k)
            index[first : first + chunk], cosine[first : first + chunk] = best.indices, best.values
    relevant = sides.gallery_labels[index] == sides.query_labels[rows][:, None]
    return Neighbours(rows, index, cosine, relevant, count)


def _relevant_counts(sides: _Sides) -> Tensor:
    """(Q,) gallery rows that share each query's label, the query itself not counted."""
    classes, place = torch.cat((sides.gallery_labels, sides.query_labels)).unique(return_inverse=True)
    sizes = place[: len(sides.gallery_labels)].bincount(minlength=len(classes))
    return sizes[place[len(sides.gallery_labels) :]] - int(sides.same)


def query_scores(found: Neighbours, ks: Sequence[int]) -> QueryScores:
    """Score every query; `found` must reach as deep as the largest k and R.

    Raises:
        RectifyError: it does not.
    """
    deepest = max(max(ks), int(found.count.max()) if len(found.count) else 0)
    relevant = found.relevant
    place = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    # a gallery smaller than k is no fault: there is nothing further down
    if relevant.shape[1] < deepest and bool((relevant.sum(1) < found.count).any()):
        raise RectifyError(f"retrieval: scores need {deepest} neighbours, found holds {relevant.shape[1]}.")
    counts = found.count[:, None]
    hits = relevant.cumsum(1)
    within = relevant & (place <= counts)
    precision = torch.where(within, hits / place, 0.0).double().sum(1)
    recall = torch.stack([relevant[:, :k].any(1) for k in ks], 1).double()
    possible = found.count.clamp_min(1)
    return QueryScores(recall, precision / possible, within.sum(1).double() / possible, found.count)


class RetrievalScores(EmbeddingMetric):
    """Recall@k, mAP@R and R-precision of unit embeddings, every sample against all others.

    `update(embeddings (n, D), labels (n,))`; with `role="query"` or `role="gallery"` the two sides are separate and a
    query meets the gallery only. `compute()` returns a dict: `recall_at_<k>`, `map_at_r`, `r_precision` (mean over
    queries), the same with `_macro` (mean over classes of their queries' means), `queries` counted and
    `queries_dropped`: queries alone in their class, which no ranking can answer. Ranks divide the queries.

    Recall@k here is the metric-learning one: is any of the first k of the class. Average precision is cut at R, the
    number of relevant images of the query, and divided by R.
    """

    higher_is_better = True
    roles: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 2, 4, 8)):
        super().__init__()
        if not ks or min(ks) < 1:
            raise RectifyError(f"RetrievalScores: ks is {list(ks)}; give cut-offs of 1 or more.")
        self.ks = tuple(ks)
        self.add_state("roles", default=[], dist_reduce_fx=None)

    def update(self, embeddings: Tensor, labels: Tensor, role: str = "both") -> None:
        if role not in ROLES:
            raise RectifyError(f"RetrievalScores: role is {role!r}; choose one of {', '.join(ROLES)}.")
        super().update(embeddings, labels)
        self.roles.append(torch.full_like(self.labels[-1], ROLES.index(role)))

    def compute(self) -> dict[str, Tensor]:
        embeddings, labels = self.rows()
        roles = torch.cat(gather_rows(torch.cat(self.roles)))
        both, asks, shelved = (roles == place for place in range(len(ROLES)))
        if bool(both.all()):
            return retrieval_scores(embeddings, labels, ks=self.ks)
        if bool(both.any()) or not (bool(asks.any()) and bool(shelved.any())):
            raise RectifyError(
                "RetrievalScores: give every sample role both, or some role query and the others role gallery."
            )
        return retrieval_scores(embeddings[asks], labels[asks], embeddings[shelved], labels[shelved], self.ks)


ROLES = ("both", "query", "gallery")


def retrieval_scores(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, Tensor]:
    """Return the scores of `RetrievalScores` for rows that every rank holds in full; the ranks divide the queries."""
    sides = _sides(query, query_labels, gallery, gallery_labels)
    counts = _relevant_counts(sides)
    answerable = (counts > 0).nonzero().squeeze(1)
    if not len(answerable):
        raise RectifyError(
            f"retrieval: none of {len(query_labels)} queries has another image of its class; "
            "evaluate classes with two images or more."
        )
    depth = max(*ks, int(counts.max()))
    classes, place = query_labels.unique(return_inverse=True)
    names = [*(f"recall_at_{k}" for k in ks), "map_at_r", "r_precision"]
    sums = torch.zeros(len(classes), len(names), dtype=torch.float64, device=query.device)
    # deep rankings in few rows at a time: topk holds values, indices and a handful of tables of this shape
    mine = answerable[rank() :: world_size()]
    for rows in mine.split(max(1, COSINES // (8 * depth))):
        scores = query_scores(_nearest(sides, counts[rows], rows, depth), ks)
        table = torch.cat((scores.recall, scores.map_at_r[:, None], scores.r_precision[:, None]), 1)
        sums.index_add_(0, place[rows], table)
    sums = sum_over_ranks(sums)
    sizes = place[answerable].bincount(minlength=len(classes))
    micro = sums.sum(0) / len(answerable)
    macro = (sums[sizes > 0] / sizes[sizes > 0, None]).mean(0)
    result = dict(zip(names, micro, strict=True))
    result |= {f"{name}_macro": value for name, value in zip(names, macro, strict=True)}
    result["queries"] = torch.tensor(len(answerable), device=query.device)
    result["queries_dropped"] = torch.tensor(len(query_labels) - len(answerable), device=query.device)
    return {name: value.float() for name, value in result.items()}
