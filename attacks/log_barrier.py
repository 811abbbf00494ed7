"""The lower level of DONE: ascent inside the ball, kept off its edge by a logarithmic barrier."""

import torch
from torch import Tensor

from ..errors import RectifyError
from ..ratio import Number
from ._arguments import EPS, STEP, check_budget, per_sample
from ._view import View
from .attack import Attack
from .balls import linf_box
from .evidence import AdversarialBatch, Budget


class LogBarrier(Attack):
    """Sign descent on -loss(δ) - c·Σ_k [log(u_k - δ_k) + log(δ_k - l_k)], l and u the L∞ ball cut by [0, 1].

    The lower level of Sow et al. 2024 (arXiv 2308.00311), whose text gives the barrier and the projection but, as far
    as could be read, no step rule: the sign step is that of PGD. The iterates keep a margin to the edge, so the barrier
    is finite; a start at the centre of the box needs no random number. `evidence.curvature` is the barrier's Hessian
    c·(1/(u - δ)² + 1/(δ - l)²), the lower level's own where the network is piecewise linear.

    Args:
        eps: L∞ radius, in pixels in [0, 1].
        step_size: length of a step.
        steps: K.
        barrier: c > 0, in units of the loss. The edge is approached as far as c / |gradient per pixel|.
        margin: share of the box kept free at either edge, in (0, 0.5).
        batch_statistics, bf16, channels_last: see Attack.
    """

    def __init__(
        self,
        eps: Number = EPS,
        step_size: Number = STEP,
        steps: int = 10,
        barrier: float = 1e-5,
        margin: float = 0.01,
        batch_statistics: bool = False,
        bf16: bool = False,
        channels_last: bool = False,
    ):
        check_budget("LogBarrier", eps, step_size, steps, "linf")
        if not barrier > 0:
            raise RectifyError(f"LogBarrier: barrier is {barrier}; it must be above 0.")
        if not 0 < margin < 0.5:
            raise RectifyError(f"LogBarrier: margin is {margin}; it is a share of the box, in (0, 0.5).")
        self.eps, self.step_size, self.steps = float(eps), float(step_size), steps
        self.barrier, self.margin = barrier, margin
        self.batch_statistics, self.bf16, self.channels_last = batch_statistics, bf16, channels_last
        self.passes = float(steps)

    def search(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> AdversarialBatch:
        lower, upper = linf_box(image, per_sample(self.eps if budget.eps is None else budget.eps, image))
        length = per_sample(self.step_size if budget.step_size is None else budget.step_size, image)
        edge = self.margin * (upper - lower)
        inner = lower + edge, upper - edge
        x, tiny = image.clamp(*inner), torch.finfo(image.dtype).tiny
        for step in range(self.steps):
            push = view.gradient(x)
            with torch.no_grad():
                # the smallest number keeps a box without width (an eps of 0) finite
                to_lower, to_upper = (x - lower).clamp_min_(tiny), (upper - x).clamp_min_(tiny)
                push += self.barrier * (to_lower.reciprocal_() - to_upper.reciprocal_())
                move = push.sign_().mul_(length)
                if budget.steps is not None:
                    move *= per_sample(budget.steps > step, image)
                x.add_(move).clamp_(*inner)
        return AdversarialBatch(x, view.evidence(self.curvature(x, lower, upper)))

    def curvature(self, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the diagonal of the barrier's Hessian, (B, C, H, W)."""
        return self.barrier * ((upper - x).square().reciprocal() + (x - lower).square().reciprocal())
