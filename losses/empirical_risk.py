"""Empirical risk minimisation: the mean of a base loss, the baseline of every other objective."""

from typing import Any

from torch import nn

from .base_losses import BaseLoss, CrossEntropy
from .objective import Context, Objective, Step


class EmpiricalRisk(Objective):
    """Mean base loss over the batch.

    Args:
        base: per-sample loss; cross-entropy by default.
    """

    def __init__(self, base: BaseLoss | None = None):
        super().__init__()
        self.base = base or CrossEntropy()

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        logits = backbone(batch["image"])
        return Step(self.base(logits, batch["label"]).mean(), logits, batch["label"])
