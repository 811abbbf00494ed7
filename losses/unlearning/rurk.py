"""RURK (arXiv 2601.22359): what is forgotten must not be known again a little beside it."""

import torch
from torch import Tensor, nn

from ...attacks import PGD, Gain
from ...errors import RectifyError
from ...ratio import Number, Ratio
from ..objective import Context
from .parts import Portion
from .unlearning_objective import UnlearningObjective

EPS = Ratio("8/255")


class Rurk(UnlearningObjective):
    """Cross-entropy of the retained samples plus strength · -log(1 - p(true class)) of perturbed forgotten ones.

    The perturbation is that under which the network knows the sample best: our attack, run to lower the cross-entropy.
    The penalty has a bounded gradient and a minimum, unlike ascent on the cross-entropy. It follows the paper's
    abstract; the form of the penalty is ours.

    Args:
        strength: 0 or more.
        eps: radius, in pixels in [0, 1] (L∞).
        steps: steps of the attack, of 2.5 · eps / steps.

    Raises:
        RectifyError: a value out of range.
    """

    schedules = ("paired", "mixed", "forget_then_retain")

    def __init__(self, strength: float = 0.1, eps: Number = EPS, steps: int = 3):
        super().__init__()
        if not strength >= 0:
            raise RectifyError(f"Rurk: strength is {strength}; it must be 0 or more.")
        self.strength = strength
        self.attack = PGD(eps, Ratio(2.5 * float(eps) / max(steps, 1)), steps)
        self.recognized = _Recognized()
        self.passes = 1.0 + steps

    def weights(self, context: Context) -> tuple[float, float]:
        return self.strength, 1.0

    def images(self, backbone: nn.Module, portion: Portion, context: Context) -> Tensor:
        image = portion.batch["image"]
        if not portion.forgets:
            return image
        generator = context.generator("attack", image.device)
        best = self.attack(backbone, image, portion.batch["label"], self.recognized, generator).image
        return torch.where(portion.forget.view(-1, 1, 1, 1), best, image)

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        # -log(1 - p) = log Σ exp over all classes - the same over the wrong ones: no cancellation at p near 1
        wrong = logits.scatter(1, portion.batch["label"][:, None], float("-inf"))
        return torch.logsumexp(logits, 1) - torch.logsumexp(wrong, 1)


class _Recognized(Gain):
    """Minus the cross-entropy: an attack with it looks for the image that the network knows best."""

    needs_label = True

    def forward(self, logits: Tensor, target: Tensor, clean: Tensor | None) -> Tensor:
        return -nn.functional.cross_entropy(logits, target, reduction="none")
