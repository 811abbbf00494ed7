"""The objective every mixing method shares: draw a plan, apply it, weigh the base losses."""

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RectifyError
from ..base_losses import BaseLoss, CrossEntropy
from ..objective import Context, Objective, Step
from .plan import MixPlan


class Mixing(Objective):
    """Base loss on mixtures of samples. A subclass draws the plan; an adversarial objective may ask it for one, too.

    Logs `mixing_on`, 1 while mixing and 0 after `stop`. While off, the step is that of EmpiricalRisk, bit for bit.

    Args:
        stop: fraction of the training after which mixing ends for good and plain samples follow; never by default.
            It is read from the training progress, so a resume needs no state.
        base: per-sample loss; cross-entropy by default.
    """

    def __init__(self, stop: float | None = None, base: BaseLoss | None = None):
        super().__init__()
        if stop is not None and not 0 <= stop <= 1:
            raise RectifyError(f"{type(self).__name__}: stop is {stop}; give a fraction of the training in [0, 1].")
        self.stop = stop
        self.base = base or CrossEntropy()

    def draw(self, image: Tensor, generator: torch.Generator | None) -> MixPlan:
        """Draw a plan for a batch; of the image only shape and device are read."""
        raise NotImplementedError

    def plan(self, image: Tensor, context: Context) -> MixPlan | None:
        """Return this batch's plan, or None when mixing has stopped."""
        if self.stop is not None and context.progress >= self.stop:
            return None
        with torch.no_grad():
            return self.draw(image, context.generator("mixing", image.device))

    def mixed_logits(self, backbone: nn.Module, image: Tensor, plan: MixPlan, context: Context) -> Tensor:
        """Return the logits of the mixtures; here the input is mixed."""
        return backbone(plan.apply(image))

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        image, label = batch["image"], batch["label"]
        plan = self.plan(image, context)
        terms = {"mixing_on": torch.full((), float(plan is not None), device=image.device)}
        if plan is None:
            logits = backbone(image)
            return Step(self.base(logits, label).mean(), logits, label, terms)
        logits = self.mixed_logits(backbone, image, plan, context)
        target = plan.target(label)
        return Step(target.loss(logits, self.base), logits, target.heavier(), terms)
