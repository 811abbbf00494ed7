"""Projected gradient ascent (Madry et al. 2018) in L∞ and L2."""

from typing import Literal

import torch
from torch import Tensor

from ..errors import RectifyError
from ..ratio import Number
from ._arguments import EPS, STEP, check_budget, check_choice, per_sample
from ._view import View
from .attack import Attack
from .balls import l2_norm, linf_box, project_l2
from .evidence import AdversarialBatch, Budget

Norm = Literal["linf", "l2"]
Start = Literal["uniform", "normal", "none"]
NORMAL_START = 1e-3  # TRADES: where the divergence of an image from itself has no gradient


class PGD(Attack):
    """`steps` steps of sign (L∞) or normalised (L2) gradient, each followed by projection into the ball and [0, 1].

    Args:
        eps: radius, in pixels in [0, 1] (L∞) or their L2 distance.
        step_size: length of a step, in the same unit.
        steps: K; 2·K passes without weight gradients.
        norm: `linf` or `l2`.
        start: `uniform` in the ball, `normal` (0.001·N(0, 1) per pixel) or `none`, at the image.
        restarts: independent attacks, of which each sample keeps its worst: a wrong one before a right one, then by the
            loss. More than one costs a forward pass each.
        batch_statistics, bf16, channels_last: see Attack.

    Raises:
        RectifyError: eps in the wrong unit, a step size or number of steps that does nothing, an unknown name.
    """

    def __init__(
        self,
        eps: Number = EPS,
        step_size: Number = STEP,
        steps: int = 10,
        norm: Norm = "linf",
        start: Start = "uniform",
        restarts: int = 1,
        batch_statistics: bool = False,
        bf16: bool = False,
        channels_last: bool = False,
    ):
        name = type(self).__name__
        check_choice(name, "norm", norm, ("linf", "l2"))
        check_choice(name, "start", start, ("uniform", "normal", "none"))
        check_budget(name, eps, step_size, steps, norm)
        if restarts < 1 or (restarts > 1 and start == "none"):
            raise RectifyError(f"{name}: restarts is {restarts} with start {start}; several need a random start.")
        self.eps, self.step_size, self.steps = float(eps), float(step_size), steps
        self.norm, self.start, self.restarts = norm, start, restarts
        self.batch_statistics, self.bf16, self.channels_last = batch_statistics, bf16, channels_last
        self.passes = float(steps * restarts)

    def search(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> AdversarialBatch:
        worst = self._climb(view, image, budget, generator)
        if self.restarts > 1:
            view.counting = False
            gain, wrong = view.worth(worst)
            for _ in range(self.restarts - 1):
                x = self._climb(view, image, budget, generator)
                other_gain, other_wrong = view.worth(x)
                better = torch.where(other_wrong == wrong, other_gain > gain, other_wrong)
                worst = torch.where(per_sample(better, image), x, worst)
                gain, wrong = torch.where(better, other_gain, gain), wrong | other_wrong
        return AdversarialBatch(worst, view.evidence())

    def _climb(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> Tensor:
        eps = per_sample(self.eps if budget.eps is None else budget.eps, image)
        length = per_sample(self.step_size if budget.step_size is None else budget.step_size, image)
        box = linf_box(image, eps) if self.norm == "linf" else None
        x = self._project(self._begin(image, eps, generator), image, eps, box)
        for step in range(self.steps):
            direction = self._direction(view.gradient(x))
            if budget.steps is not None:  # a sample that has taken its steps stays where it is
                direction *= per_sample(budget.steps > step, image)
            with torch.no_grad():
                if isinstance(length, Tensor):
                    x.addcmul_(direction, length.to(x.dtype))
                else:
                    x.add_(direction, alpha=length)
                self._project(x, image, eps, box)
        return x

    def _begin(self, image: Tensor, eps: float | Tensor, generator: torch.Generator | None) -> Tensor:
        if self.start == "none":
            return image.clone()
        noise = torch.empty_like(image)
        if self.start == "normal":
            return noise.normal_(generator=generator).mul_(NORMAL_START).add_(image)
        if self.norm == "linf":
            return noise.uniform_(-1, 1, generator=generator).mul_(eps).add_(image)
        noise.normal_(generator=generator)
        share = torch.rand(len(image), generator=generator, device=image.device, dtype=image.dtype)
        radius = per_sample(share ** (1 / image[0].numel()), image) * eps  # uniform in the volume
        return noise.mul_(radius / l2_norm(noise)).add_(image)

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign_() if self.norm == "linf" else gradient.div_(l2_norm(gradient))

    def _project(self, x: Tensor, image: Tensor, eps: float | Tensor, box: tuple[Tensor, Tensor] | None) -> Tensor:
        return project_l2(x, image, eps) if box is None else x.clamp_(*box)
