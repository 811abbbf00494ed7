"""Smooth-AP: average precision with sigmoids in the place of steps."""

from torch import Tensor

from ...errors import RectifyError
from .embedding_loss import EmbeddingLoss, check_rows, check_unit, global_means
from .ranks_of_positives import smooth_ranks


class SmoothAP(EmbeddingLoss):
    """1 - mean over queries of 1/|P| Σ_{i∈P} rank of i among P / rank of i among all, with smooth ranks.

    Every row is a query against the rows of all ranks; queries without a positive are left out. Brown et al. 2020,
    arXiv 2007.12163, eq. 6. Classes need not be of equal size.

    Args:
        temperature: of the sigmoid on cosine differences.
        include_query: count the query as one of its own positives, as the authors' and other public code does, which
            adds a term that is nearly constant; retrieval metrics do not.
    """

    name = "smooth_ap"

    def __init__(self, temperature: float = 0.01, include_query: bool = False):
        super().__init__()
        if not temperature > 0:
            raise RectifyError(f"SmoothAP: temperature is {temperature}; it must be above 0.")
        self.temperature, self.include_query = temperature, include_query
        self._checked = False

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_rows("SmoothAP", embeddings, labels)
        if not self._checked:
            check_unit("SmoothAP", embeddings)
            self._checked = True
        ranks = smooth_ranks(embeddings, labels, self.temperature, self.include_query)
        precision = ranks.per_query(ranks.among_positives / ranks.among_all) / ranks.positives.clamp_min(1)
        answered = ranks.positives > 0
        lost = (1 - precision)[answered].sum()
        means, _ = global_means(lost[None], answered.sum()[None])
        return means[0]
