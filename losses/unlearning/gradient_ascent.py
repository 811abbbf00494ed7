"""Gradient ascent on what is to be forgotten (Thudi et al. 2022)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..objective import Context
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class GradientAscent(UnlearningObjective):
    """Minus the mean cross-entropy of the samples to forget; what is retained is not looked at.

    It has no lower bound: few epochs with a small learning rate (published: 5 epochs, 1e-5 to 1e-3).
    """

    schedules = ("forget", "forget_then_retain", "paired", "mixed")
    uses = ("forget",)

    def weights(self, context: Context) -> tuple[float, float]:
        return -1.0, 0.0

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        return F.cross_entropy(logits, portion.batch["label"], reduction="none")
