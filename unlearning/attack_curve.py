"""How well scores tell members from others: AUC and the true-positive rate where false alarms are rare."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttackCurve:
    """The ROC of an attack, exact for ties.

    Attributes:
        fpr, tpr: (m,) float64, from (0, 0) to (1, 1), one point a distinct score.
    """

    fpr: Tensor
    tpr: Tensor

    @classmethod
    def of(cls, member: Tensor, nonmember: Tensor) -> "AttackCurve":
        """Sort the scores once: O(n log n). Larger scores speak for members; not-a-number counts as the lowest."""
        scores = (
            torch.cat((member.flatten(), nonmember.flatten())).double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
        )
        is_member = torch.arange(len(scores)) < member.numel()
        order = scores.argsort(descending=True, stable=True)
        scores, is_member = scores[order], is_member[order]
        last = torch.cat((scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)))  # of equal scores
        tpr = is_member.cumsum(0)[last].double() / member.numel()
        fpr = (~is_member).cumsum(0)[last].double() / nonmember.numel()
        zero = torch.zeros(1, dtype=torch.float64)
        return cls(torch.cat((zero, fpr)), torch.cat((zero, tpr)))

    @property
    def auc(self) -> float:
        """Probability that a member scores above another sample, ties counting half."""
        return float(torch.trapezoid(self.tpr, self.fpr))

    def tpr_at(self, fpr: float) -> float:
        """Largest true-positive rate with a false-positive rate of at most `fpr`."""
        return float(self.tpr[self.fpr <= fpr].max())

    @property
    def accuracy(self) -> float:
        """Largest (TPR + TNR) / 2 over thresholds; 0.5 is a guess."""
        return 0.5 + 0.5 * float((self.tpr - self.fpr).max())
