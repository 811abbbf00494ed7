"""Auto-PGD: projected gradient ascent that finds its own step size (Croce and Hein 2020, arXiv 2003.01690)."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..ratio import Number
from ._arguments import EPS, check_budget, check_choice, per_sample
from ._view import View
from .attack import Attack
from .balls import l2_norm, linf_box, project_l2
from .evidence import AdversarialBatch, Budget
from .gains import CrossEntropyGain, Gain
from .scale_free_gains import DifferenceOfLogitsRatio, TargetedDifferenceOfLogitsRatio

Norm = Literal["linf", "l2"]
Loss = Literal["ce", "dlr", "targeted_dlr"]
MOMENTUM = 0.75  # weight of the new step against the last move
TINY = 1e-12
RISING = 0.75  # share of steps in which the loss must have risen


class APGD(Attack):
    """Ascent with momentum whose step, 2·eps at first, is halved for each sample whose loss has stopped to rise.

    Whether it rises is asked at checkpoints 22 % of the steps apart, later fewer: the step is halved, and the sample
    goes on from its best point, if the loss rose in at most 75 % of the steps since, or if neither the best loss nor
    the step changed since the checkpoint before. That second rule spares the first checkpoint, as in the authors' code.
    Samples are told apart by masks, so every batch takes the same passes. Each sample keeps its worst point: a wrong
    one before a right one, then by the loss. In training PGD is the better attack for its price.

    Args:
        eps: radius, in pixels in [0, 1] (L∞) or their L2 distance.
        steps: K; a restart costs K + 1 passes.
        norm: `linf` or `l2`.
        loss: `ce`, `dlr` (at least 3 classes) or `targeted_dlr` (at least 4), used unless the caller gives a loss.
        restarts: independent starts; with `targeted_dlr` for each target.
        targets: wrong classes aimed at in turn by `targeted_dlr`, at most the number of classes less one.
        batch_statistics, bf16, channels_last: see Attack.

    Raises:
        RectifyError: eps in the wrong unit, no step, an unknown name.
    """

    def __init__(
        self,
        eps: Number = EPS,
        steps: int = 100,
        norm: Norm = "linf",
        loss: Loss = "ce",
        restarts: int = 1,
        targets: int = 9,
        batch_statistics: bool = False,
        bf16: bool = False,
        channels_last: bool = False,
    ):
        name = type(self).__name__
        check_choice(name, "norm", norm, ("linf", "l2"))
        check_choice(name, "loss", loss, ("ce", "dlr", "targeted_dlr"))
        check_budget(name, eps, 2 * eps, steps, norm)
        if restarts < 1 or targets < 1:
            raise RectifyError(f"{name}: restarts is {restarts} and targets {targets}; give at least 1.")
        self.eps, self.steps, self.norm, self.loss = float(eps), steps, norm, loss
        self.restarts, self.targets = restarts, targets
        self.batch_statistics, self.bf16, self.channels_last = batch_statistics, bf16, channels_last
        self.passes = float((steps + 1) * restarts * (targets if loss == "targeted_dlr" else 1))

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
        return super().__call__(backbone, image, target, loss or self._own_gain(), generator, budget, clean)

    def _own_gain(self) -> Gain:
        if self.loss == "ce":
            return CrossEntropyGain()
        return DifferenceOfLogitsRatio() if self.loss == "dlr" else TargetedDifferenceOfLogitsRatio()

    def search(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> AdversarialBatch:
        gain, places = view._gain, 1
        targeted = gain if isinstance(gain, TargetedDifferenceOfLogitsRatio) else None
        if targeted is not None and view.clean is not None:
            places = min(self.targets, view.clean.shape[1] - 1)
        worst, evidence = None, None
        for run in range(places * self.restarts):
            if targeted is not None:
                targeted.place = run // self.restarts + 1
            found = self._climb(view, image, budget, generator)
            if worst is None or evidence is None:
                worst, evidence = found, view.evidence()
                if evidence.survived is not None:  # the view goes on counting
                    evidence = replace(evidence, survived=evidence.survived.clone())
            else:
                worst = worst.or_worse(found)
        assert worst is not None and evidence is not None
        return AdversarialBatch(worst.image, evidence)

    def _climb(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> "_Point":
        eps = per_sample(self.eps if budget.eps is None else budget.eps, image)
        box = linf_box(image, eps) if self.norm == "linf" else None
        first = 2 * eps if budget.step_size is None else per_sample(budget.step_size, image)
        size = image.new_ones(len(image), *[1] * (image.ndim - 1)) * first
        here = _look(view, self._begin(image, eps, box, generator))
        best = worst = here
        before = here.image
        rises, best_before = torch.zeros_like(here.gain), best.gain
        halved = torch.ones_like(here.wrong)
        ends, opened = checkpoints(self.steps), 0
        for step in range(1, self.steps + 1):
            ahead = here.image + size * self._direction(here.gradient)
            ahead = self._project(ahead, image, eps, box)
            if step > 1:
                ahead = here.image + (ahead - here.image) * MOMENTUM + (here.image - before) * (1 - MOMENTUM)
                ahead = self._project(ahead, image, eps, box)
            if budget.steps is not None:  # a sample that has taken its steps stays where it is
                ahead = torch.where(per_sample(budget.steps >= step, image), ahead, here.image)
            before, last = here.image, here.gain
            here = _look(view, ahead)
            rises += here.gain > last
            worst = worst.or_worse(here)
            best = best.where(here.gain > best.gain, here)
            if step in ends:
                stuck = ~halved & (best_before >= best.gain)
                halved = (rises <= RISING * (step - opened)) | stuck
                size = torch.where(per_sample(halved, image), size / 2, size)
                here = here.where(halved, best)
                rises, best_before, opened = torch.zeros_like(rises), best.gain, step
        return worst

    def _begin(
        self, image: Tensor, eps: float | Tensor, box: tuple[Tensor, Tensor] | None, generator: torch.Generator | None
    ) -> Tensor:
        """On the ball's surface, as the authors begin: the noise is scaled to touch it."""
        noise = torch.empty_like(image)
        if box is not None:
            noise.uniform_(-1, 1, generator=generator)
            noise /= noise.abs().flatten(1).amax(1).clamp_min(TINY).view(-1, *[1] * (image.ndim - 1))
        else:
            noise.normal_(generator=generator)
            noise /= l2_norm(noise)
        return self._project(noise.mul_(eps).add_(image), image, eps, box)

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else gradient / l2_norm(gradient)

    def _project(self, x: Tensor, image: Tensor, eps: float | Tensor, box: tuple[Tensor, Tensor] | None) -> Tensor:
        return project_l2(x, image, eps) if box is None else x.clamp_(*box)


class _Point:
    """Where each sample stands, with the gradient, the gain (B,) and whether the prediction is wrong (B,)."""

    def __init__(self, image: Tensor, gradient: Tensor, gain: Tensor, wrong: Tensor):
        self.image, self.gradient, self.gain, self.wrong = image, gradient, gain, wrong

    def where(self, chosen: Tensor, other: "_Point") -> "_Point":
        """The other point where `chosen` (B,) is set."""
        broad = per_sample(chosen, self.image)
        return _Point(
            torch.where(broad, other.image, self.image),
            torch.where(broad, other.gradient, self.gradient),
            torch.where(chosen, other.gain, self.gain),
            torch.where(chosen, other.wrong, self.wrong),
        )

    def or_worse(self, other: "_Point") -> "_Point":
        """The other point where it is worse for the network."""
        return self.where(torch.where(other.wrong == self.wrong, other.gain > self.gain, other.wrong), other)


def _look(view: View, x: Tensor) -> _Point:
    gradient = view.gradient(x)
    with torch.no_grad():
        assert view.logits is not None
        gain = view._gain(view.logits, view.target, view.clean)
        label = view.target if isinstance(view.target, Tensor) else None
        wrong = torch.zeros_like(gain, dtype=torch.bool) if label is None else view.logits.argmax(1) != label
    return _Point(x, gradient, gain, wrong)


def checkpoints(steps: int) -> list[int]:
    """Return the steps at which APGD judges itself: 22 % apart at first, each gap 3 % shorter, down to 6 %."""
    gap, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    ends, end = [], gap
    while end <= steps:
        ends.append(end)
        gap = max(gap - shorter, least)
        end += gap
    return ends
