"""A smooth surrogate of Recall@k."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import RectifyError
from .embedding_loss import EmbeddingLoss, check_rows, check_unit, global_means
from .ranks_of_positives import smooth_ranks


class RecallAtK(EmbeddingLoss):
    """1 - mean over k and queries of 1/min(k, |P|) Σ_{i∈P} σ((k - rank of i) / τ₁), with smooth ranks (τ₂).

    Every row is a query against the rows of all ranks; queries without a positive are left out. Patel et al. 2022,
    arXiv 2108.11179. The share is of the min(k, |P|) positives that fit into k places.

    Args:
        ks: the cut-offs to average over.
        rank_temperature: τ₁.
        temperature: τ₂, of the sigmoid on cosine differences.
    """

    name = "recall_at_k"

    def __init__(self, ks: Sequence[int] = (1, 2, 4, 8, 16), rank_temperature: float = 1.0, temperature: float = 0.01):
        super().__init__()
        if not ks or min(ks) < 1:
            raise RectifyError(f"RecallAtK: ks is {list(ks)}; give cut-offs of 1 or more.")
        if not (temperature > 0 and rank_temperature > 0):
            raise RectifyError(
                f"RecallAtK: temperatures are {rank_temperature} and {temperature}; both must be above 0."
            )
        self.ks = tuple(ks)
        self.rank_temperature, self.temperature = rank_temperature, temperature
        self._checked = False

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_rows("RecallAtK", embeddings, labels)
        if not self._checked:
            check_unit("RecallAtK", embeddings)
            self._checked = True
        ranks = smooth_ranks(embeddings, labels, self.temperature, include_query=False)
        recall = ranks.among_all.new_zeros(len(labels))
        for k in self.ks:
            within = torch.sigmoid((k - ranks.among_all) / self.rank_temperature)
            recall = recall + ranks.per_query(within) / ranks.positives.clamp(1, k)
        answered = ranks.positives > 0
        lost = (1 - recall / len(self.ks))[answered].sum()
        means, _ = global_means(lost[None], answered.sum()[None])
        return means[0]
