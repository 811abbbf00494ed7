"""The fast part of AutoAttack (Croce and Hein 2020): APGD on cross-entropy, then aimed at the other classes."""

from typing import Any

import torch
from torch import Tensor, nn

from ..ratio import Number
from ._arguments import EPS
from ._undisturbed import undisturbed
from .apgd import APGD, Norm
from .attack import Attack
from .evidence import AdversarialBatch, Budget
from .gains import CrossEntropyGain, Gain


class FastAutoAttack(Attack):
    """APGD on cross-entropy, then targeted APGD on what is still right: AutoAttack's first two attacks.

    Both keep their own losses. It reads back which samples are left, so it is for evaluation; at least one sample goes
    on, so that every rank makes the same passes.

    Args:
        eps: radius, in pixels in [0, 1] (L∞) or their L2 distance.
        norm: `linf` or `l2`.
        steps: of each climb; 100 is the standard.
        targets: wrong classes aimed at, at most the number of classes less one.
    """

    needs_label = True

    def __init__(self, eps: Number = EPS, norm: Norm = "linf", steps: int = 100, targets: int = 9):
        self.first = APGD(eps, steps, norm, "ce")
        self.second = APGD(eps, steps, norm, "targeted_dlr", targets=targets)
        self.eps, self.norm, self.steps = float(eps), norm, steps
        self.passes = self.first.passes + self.second.passes

    def __call__(
        self,
        backbone: nn.Module,
        image: Tensor,
        target: Any,
        loss: Gain | None = None,
        generator: torch.Generator | None = None,
        budget: Budget | None = None,
        clean: bool = False,
    ) -> AdversarialBatch:
        target = self._checked(image, target, CrossEntropyGain())
        found = self.first(backbone, image, target, None, generator, budget, clean)
        with undisturbed(backbone, False), torch.no_grad():
            left = (backbone(found.image).argmax(1) == target).nonzero().flatten()
        done = not len(left)
        if done:
            left = torch.zeros(1, dtype=torch.int64, device=image.device)
        budget = budget and Budget(
            *(None if b is None else b[left] for b in (budget.eps, budget.step_size, budget.steps))
        )
        more = self.second(backbone, image[left], target[left], None, generator, budget)
        if done:  # that pass was for the other ranks' sake
            return found
        return AdversarialBatch(found.image.index_copy(0, left, more.image), found.evidence)
