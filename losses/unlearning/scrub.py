"""SCRUB (Kurmanji et al. 2023, arXiv 2302.09880): a student that leaves its teacher on what is to be forgotten."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import RectifyError
from ..objective import Context
from .frozen_copy import FrozenCopy, divergence
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class Scrub(UnlearningObjective):
    """Ascent on KL(original || student) over what is forgotten; descent on α · KL + γ · cross-entropy over the rest.

    The ascent ends after the first `msteps` epochs, the descent goes on. Divergences are taken at a temperature T and
    multiplied by T². The original is the network at the start.

    Args:
        alpha, gamma: α ≥ 0 and γ ≥ 0.
        msteps: epochs with ascent, 1 or more.
        temperature: T > 0.

    Raises:
        RectifyError: a value out of range.
    """

    frozen_copies = 1
    passes = 4 / 3

    def __init__(self, alpha: float = 0.001, gamma: float = 0.99, msteps: int = 2, temperature: float = 4.0):
        super().__init__()
        for name, value in (("alpha", alpha), ("gamma", gamma)):
            if not value >= 0:
                raise RectifyError(f"Scrub: {name} is {value}; it must be 0 or more.")
        if msteps < 1:
            raise RectifyError(f"Scrub: msteps is {msteps}; at least one epoch must forget.")
        if not temperature > 0:
            raise RectifyError(f"Scrub: temperature is {temperature}; it must be above 0.")
        self.alpha, self.gamma, self.msteps, self.temperature = alpha, gamma, msteps, temperature

    def setup(self, backbone: nn.Module) -> None:
        self.original = FrozenCopy(backbone)

    @property
    def forget_epochs(self) -> int:
        """Epochs whose forget pass has a gradient; a schedule may leave out the later ones."""
        return self.msteps

    def weights(self, context: Context) -> tuple[float, float]:
        return -1.0 if context.key[2] < self.msteps else 0.0, 1.0

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        return divergence(logits, self.original.answer(portion.batch["image"]), self.temperature)

    def retain_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        fit = F.cross_entropy(logits, portion.batch["label"], reduction="none")
        near = divergence(logits, self.original.answer(portion.batch["image"]), self.temperature)
        return self.gamma * fit + self.alpha * near
