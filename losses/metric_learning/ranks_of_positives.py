"""The smooth rank of every positive among all rows, which the ranking losses are made of."""

from typing import NamedTuple

import torch
from torch import Tensor

from .embedding_loss import full_precision, gather_embeddings


class PositiveRanks(NamedTuple):
    """One entry per ordered positive pair (query, item) of this rank's queries, M in all.

    Attributes:
        query: (M,) row of the query.
        among_all: (M,) 1 + Σ_j σ((s_j - s_item) / τ) over all other rows j but the query.
        among_positives: (M,) the same over the query's positives.
        positives: (n,) number of positives of each query.
    """

    query: Tensor
    among_all: Tensor
    among_positives: Tensor
    positives: Tensor

    def per_query(self, values: Tensor) -> Tensor:
        """Sum (M,) values over the items of each query, (n,)."""
        return torch.zeros_like(self.positives, dtype=values.dtype).index_add(0, self.query, values)


def smooth_ranks(embeddings: Tensor, labels: Tensor, temperature: float, include_query: bool) -> PositiveRanks:
    """Rank every positive of this rank's rows among the rows of all ranks, by cosine.

    Costs M·N sigmoids for M positive pairs, not n·N², and one host sync to know M.

    Args:
        include_query: count the query itself, at cosine 1, as one of its positives, as published code does.
    """
    rows = gather_embeddings(embeddings, labels)
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = full_precision(embeddings) @ full_precision(rows.embeddings).T
        same = labels[:, None] == rows.labels
        eligible = torch.ones_like(same)
        if not include_query:
            same.diagonal(rows.start).fill_(False)
            eligible.diagonal(rows.start).fill_(False)
        query, item = same.nonzero(as_tuple=True)
        ahead = torch.sigmoid((cosine[query] - cosine[query, item][:, None]) / temperature)
        others = eligible[query]
        others[torch.arange(len(item), device=item.device), item] = False  # the item is not ahead of itself
        among_all = 1 + torch.where(others, ahead, 0.0).sum(1)
        among_positives = 1 + torch.where(others & same[query], ahead, 0.0).sum(1)
    return PositiveRanks(query, among_all, among_positives, same.sum(1))
