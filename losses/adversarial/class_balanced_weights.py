"""Class weights against imbalance, set in late (SRAT, DRW)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import RectifyError
from .weighting import Seen, Term, Weighting, global_mean_one


class ClassBalancedWeights(Weighting):
    """max_c(E)/E_y with E_c the effective number (1 - β^n_c) or n_c itself, scaled to a mean of 1 over the batch.

    The scale is that of PyTorch's weighted cross-entropy, taken over all ranks. Under mixing a sample's weight is the
    label-weighted mean. Cui et al. 2019; deferred in Cao et al. 2019 and Wang et al. 2022 (arXiv 2107.13639).

    Args:
        counts: training samples n_c of each class; by default those of the data module's training split, after its
            `imbalance`. Streams have no counts, so there they must be given.
        kind: `effective` number of samples, or `inverse` frequency.
        beta: β in [0, 1) of the effective number.
        defer: share of the training before which all weights are 1; published at epoch 160 of 200.
        term: see Weighting.

    Raises:
        RectifyError: no counts, a class without samples, or fewer counts than the network has classes.
    """

    class_weight: Tensor

    def __init__(
        self,
        counts: Sequence[int] | None = None,
        kind: Literal["effective", "inverse"] = "effective",
        beta: float = 0.9999,
        defer: float = 0.0,
        term: Term = "all",
    ):
        super().__init__(defer, term)
        if kind not in ("effective", "inverse"):
            raise RectifyError(f"ClassBalancedWeights: kind is {kind!r}; choose effective or inverse.")
        if not 0 <= beta < 1:
            raise RectifyError(f"ClassBalancedWeights: beta is {beta}; it must lie in [0, 1).")
        self.kind, self.beta = kind, beta
        self.register_buffer("class_weight", torch.zeros(0), persistent=False)
        if counts:
            self._count(counts)

    def take_class_counts(self, counts: Sequence[int]) -> None:
        """Take the counts of the training split, unless some were given."""
        if not len(self.class_weight):
            self._count(counts)

    def _count(self, counts: Sequence[int]) -> None:
        if min(counts) <= 0:
            raise RectifyError(f"ClassBalancedWeights: counts holds {min(counts)}; each class needs 1 or more.")
        number = torch.tensor(counts, dtype=torch.float64)
        if self.kind == "effective":
            number = 1 - self.beta**number
        self.class_weight = (number.max() / number).float().to(self.class_weight.device)

    def setup(self, backbone: nn.Module) -> None:
        classes = getattr(backbone, "classes", 0)
        self._check_counted()
        if len(self.class_weight) < classes:
            raise RectifyError(
                f"ClassBalancedWeights: counts has {len(self.class_weight)} entries for {classes} classes; "
                "give the training samples of each class."
            )

    def _check_counted(self) -> None:
        if not len(self.class_weight):
            raise RectifyError(
                "ClassBalancedWeights: counts is missing and the data do not tell them; give the training samples of "
                "each class."
            )

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        self._check_counted()
        each = self.class_weight.to(seen.loss.dtype)
        if isinstance(seen.target, Tensor):
            return global_mean_one(each[seen.target])
        return global_mean_one((each[seen.target.labels] * seen.target.weights).sum(1))
