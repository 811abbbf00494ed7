"""NegGrad+ (Kurmanji et al. 2023, arXiv 2302.09880): descent on what is retained, ascent on what is forgotten."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import RectifyError
from ..objective import Context
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class NegGradPlus(UnlearningObjective):
    """α · mean cross-entropy of the retained samples - (1 - α) · that of the forgotten ones, in every step.

    Args:
        alpha: α in [0, 1]; 1 is fine-tuning, 0 gradient ascent. It has to be tuned for each task.

    Raises:
        RectifyError: alpha outside [0, 1].
    """

    schedules = ("paired", "mixed")

    def __init__(self, alpha: float = 0.95):
        super().__init__()
        if not 0 <= alpha <= 1:
            raise RectifyError(f"NegGradPlus: alpha is {alpha}; it must lie in [0, 1].")
        self.alpha = alpha

    def weights(self, context: Context) -> tuple[float, float]:
        return self.alpha - 1, self.alpha

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        return F.cross_entropy(logits, portion.batch["label"], reduction="none")
