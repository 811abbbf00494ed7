"""The threshold-consistent margin: positives above one cosine and negatives below another, whatever the class."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...collectives import gather_rows
from ...errors import RectifyError
from .embedding_loss import EmbeddingLoss, check_rows, check_unit, full_precision, gather_embeddings, global_means
from .margin_violations import MarginViolations

PairMask = Callable[[Tensor, Tensor], Tensor]


class ThresholdConsistentMargin(EmbeddingLoss):
    """w⁺·mean (m⁺ - s)^p over positive pairs with s ≤ m⁺, plus w⁻·mean (s - m⁻)^p over negative pairs with s ≥ m⁻.

    s is the cosine of a pair; the means are over the *active* pairs, those that violate their margin, of all ranks, and
    0 where there is none. Zhang et al. 2024, arXiv 2307.04047; the defaults are the paper's (p = 1). A regulariser: add
    it to a base loss.

    `loss(embeddings (n, D), labels (n,))` takes all ordered pairs of different rows. With references (m, D) it takes
    all pairs of a row and a reference instead, none of them a pair with itself. References may carry a gradient, and
    are gathered over ranks unless `gather_references=False` says that every rank holds the same.
    Computes in float32 under autocast. Costs n·N cosines; the first batch is checked for unit length (one host sync).

    Args:
        power: 1 or 2.
        pair_mask: `(rows, columns) -> (n, m) bool`, the pairs that count, from the tags of both sides (the labels if no
            tags are given), e.g. `lambda a, b: a[:, None] != b` with cameras as tags: pairs across cameras only.
    """

    name = "tcm"
    references = True

    def __init__(
        self,
        positive_margin: float = 0.9,
        negative_margin: float = 0.5,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        power: int = 1,
        pair_mask: PairMask | None = None,
    ):
        super().__init__()
        for key, margin in (("positive_margin", positive_margin), ("negative_margin", negative_margin)):
            if not -1 <= margin <= 1:
                raise RectifyError(f"ThresholdConsistentMargin: {key} is {margin}; a cosine lies in [-1, 1].")
        for key, weight in (("positive_weight", positive_weight), ("negative_weight", negative_weight)):
            if weight < 0:
                raise RectifyError(f"ThresholdConsistentMargin: {key} is {weight}; it must be 0 or more.")
        if power not in (1, 2):
            raise RectifyError(f"ThresholdConsistentMargin: power is {power}; choose 1 or 2.")
        self.positive_margin, self.negative_margin = positive_margin, negative_margin
        self.positive_weight, self.negative_weight = positive_weight, negative_weight
        self.power = power
        self.pair_mask = pair_mask
        self._checked = False

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference_embeddings: Tensor | None = None,
        reference_labels: Tensor | None = None,
        *,
        tags: Tensor | None = None,
        reference_tags: Tensor | None = None,
        gather_references: bool = True,
    ) -> Tensor:
        owner = type(self).__name__
        check_rows(owner, embeddings, labels)
        if (reference_embeddings is None) != (reference_labels is None):
            raise RectifyError(f"{owner}: give reference_embeddings and reference_labels together.")
        own = reference_embeddings is None or reference_labels is None or reference_embeddings is embeddings
        columns, column_labels = (embeddings, labels) if own else (reference_embeddings, reference_labels)
        assert columns is not None and column_labels is not None
        check_rows(owner, columns, column_labels)
        if not self._checked:
            check_unit(owner, embeddings)
            check_unit(owner, columns)
            self._checked = True
        column_tags = tags if own else reference_tags
        start = 0
        if own or gather_references:
            column_tags = None if column_tags is None else torch.cat(gather_rows(column_tags))
            columns, column_labels, start, _ = gather_embeddings(columns, column_labels)
        positive = labels[:, None] == column_labels
        negative = ~positive
        if self.pair_mask is not None:
            row_tags = labels if tags is None else tags
            counted = self.pair_mask(row_tags, column_labels if column_tags is None else column_tags)
            if counted.shape != positive.shape:
                raise RectifyError(f"{owner}: pair_mask gave {tuple(counted.shape)} for {tuple(positive.shape)} pairs.")
            positive, negative = positive & counted, negative & counted
        if own:
            positive.diagonal(start).fill_(False)
        rows = full_precision(embeddings)
        return self._loss(rows, rows if columns is embeddings else full_precision(columns), positive, negative)

    def _loss(self, rows: Tensor, columns: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            sums, active = MarginViolations.apply(
                rows, columns, positive, negative, self.positive_margin, self.negative_margin, self.power
            )
        pairs = torch.stack((positive.count_nonzero(), negative.count_nonzero()))
        means, counts = global_means(torch.cat((sums, torch.zeros_like(sums))), torch.cat((active, pairs)))
        active, pairs = counts[:2], counts[2:]
        rates = active / pairs.clamp_min(1)
        self.terms = {
            "positive_active": active[0],
            "negative_active": active[1],
            "positive_rate": rates[0],
            "negative_rate": rates[1],
            "positive_pairs": pairs[0],
            "negative_pairs": pairs[1],
        }
        return self.positive_weight * means[0] + self.negative_weight * means[1]
