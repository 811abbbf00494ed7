"""Beta calibration of each class against the rest."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._minimise import minimise
from .calibration_map import CalibrationMap


def log_odds_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p and -ln(1 - p) of every class, (n, K) each, finite where p is 0 or 1."""
    own = logits.log_softmax(1)
    top = own.argmax(1, keepdim=True)
    others = own.scatter(1, top, -torch.inf)
    # only the largest p can come near 1, where 1 - p loses its digits: there the rest's mass is summed up instead
    rest = torch.log1p(-others.exp()).scatter(1, top, others.logsumexp(1, keepdim=True))
    return own, -rest


class BetaCalibration(CalibrationMap):
    """σ(a ln p - b ln(1 - p) + c) per class, a and b ≥ 0, then scaled to sum 1 (Kull, Silva Filho and Flach 2017).

    A logistic regression on the two logarithms. A bound at 0 keeps the map monotone; it is built in as a square.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, classes: int):
        super().__init__(classes)
        self._declare(slope=(2, classes), intercept=(classes,))

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        low, high = log_odds_parts(logits)
        target = F.one_hot(label, self.classes).to(logits.dtype)
        root, intercept = logits.new_ones(2, self.classes), logits.new_zeros(self.classes)

        def loss() -> Tensor:
            a, b = root.square()
            score = a * low + b * high + intercept
            # the classes are fitted apart: their sum has no common parameter. The ridge only matters if they separate
            return F.binary_cross_entropy_with_logits(score, target) * self.classes + 1e-7 * root.square().sum()

        minimise([root, intercept], loss, steps=500)
        self._keep(slope=root.square(), intercept=intercept)

    def _map(self, logits: Tensor) -> Tensor:
        low, high = log_odds_parts(logits)
        a, b = self.slope.to(logits.dtype)
        score = F.logsigmoid(a * low + b * high + self.intercept.to(logits.dtype))
        return score - score.logsumexp(1, keepdim=True)
