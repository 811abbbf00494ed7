"""SFR-on (Huang et al. 2024, NeurIPS): now and then adaptive ascent on what is forgotten, beside training the rest."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import RectifyError
from ..objective import Context
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class SFRon(UnlearningObjective):
    """Mean cross-entropy of the retained samples, minus, every n-th step, α times a weighted one of the forgotten.

    A forgotten sample weighs loss^-power, so that what is forgotten already is not driven further; α falls to 0 along
    half a cosine. The saliency mask of the method is `callbacks.WeightSaliency`, which here acts on the retain gradient
    too; the averaging of slow and fast weights is left out, which the published setting (1.0) switches off.

    Args:
        alpha: α ≥ 0 at the start.
        every: n, 1 or more.
        power: 0 or more; 0 is plain ascent.

    Raises:
        RectifyError: a value out of range.
    """

    schedules = ("paired", "mixed")

    def __init__(self, alpha: float = 25.0, every: int = 5, power: float = 0.5):
        super().__init__()
        for name, value in (("alpha", alpha), ("power", power)):
            if not value >= 0:
                raise RectifyError(f"SFRon: {name} is {value}; it must be 0 or more.")
        if every < 1:
            raise RectifyError(f"SFRon: every is {every}; it counts steps and must be 1 or more.")
        self.alpha, self.every, self.power = alpha, every, power

    def weights(self, context: Context) -> tuple[float, float]:
        due = context.step % self.every == 0
        return (-self.alpha * (1 + math.cos(math.pi * context.progress)) / 2 if due else 0.0), 1.0

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        loss = F.cross_entropy(logits, portion.batch["label"], reduction="none")
        return loss * loss.detach().clamp_min(1e-6) ** -self.power
