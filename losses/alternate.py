"""Alternate between objectives from step to step, as FMix's authors do with Mixup."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, cast

import torch
from torch import nn

from ..errors import RectifyError
from ..randomness import keyed_generator
from .objective import Context, Objective, Step

Mode = Literal["strict", "weighted"]


class Alternate(Objective):
    """One of several objectives at each optimizer step, the same one on every rank and for every micro-batch.

    Logs the place of the chosen one in the list as `alternate`, beside its own terms.

    Args:
        objectives: two or more objectives that take the same kind of batch.
        weights: `strict`: whole numbers of steps in turn, [2, 1] is A A B A A B …; `weighted`: relative
            probabilities. All equal by default.
        mode: `strict` or `weighted`.

    Raises:
        RectifyError: fewer than two objectives, weights that do not fit, or objectives with different batches.
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float] | None = None, mode: Mode = "strict"):
        super().__init__()
        weights = [1.0] * len(objectives) if weights is None else [float(weight) for weight in weights]
        if len(objectives) < 2:
            raise RectifyError(f"Alternate: objectives has {len(objectives)} entries; give two or more.")
        if mode not in ("strict", "weighted"):
            raise RectifyError(f"Alternate: mode is {mode!r}; choose strict or weighted.")
        if len(weights) != len(objectives) or min(weights) <= 0:
            raise RectifyError(
                f"Alternate: weights is {weights} for {len(objectives)} objectives; give one number above 0 for each."
            )
        if mode == "strict" and not all(weight.is_integer() for weight in weights):
            raise RectifyError(f"Alternate: weights is {weights}; strict alternation counts whole steps.")
        self.objectives = nn.ModuleList(objectives)
        self.weights, self.mode = weights, mode
        self._last = 0
        self._declare(objectives)

    def _declare(self, objectives: Sequence[Objective]) -> None:
        for name in ("needs_retain", "views"):
            if len({getattr(child, name) for child in objectives}) > 1:
                kinds = ", ".join(f"{type(child).__name__} {getattr(child, name)}" for child in objectives)
                raise RectifyError(f"Alternate: {name} differs ({kinds}); its objectives must take the same batch.")
            setattr(self, name, getattr(objectives[0], name))
        for name in ("needs_index", "double_backward", "writes_weights", "own_parameters"):
            setattr(self, name, any(getattr(child, name) for child in objectives))
        self.frozen_copies = sum(child.frozen_copies for child in objectives)
        shares = [weight / sum(self.weights) for weight in self.weights]
        self.passes = sum(share * child.passes for share, child in zip(shares, objectives, strict=True))

    def choose(self, context: Context) -> int:
        """Return the place of this step's objective; a function of seed and step alone."""
        bounds = list(accumulate(self.weights))
        if self.mode == "strict":
            return bisect_right(bounds, context.step % int(bounds[-1]))
        # the rank and the micro-batch stay out of the key: all of a step minimise the same objective
        generator = keyed_generator(context.key[0], context.step, "alternate")
        return bisect_right(bounds[:-1], torch.rand((), dtype=torch.float64, generator=generator).item() * bounds[-1])

    def _child(self, place: int) -> Objective:
        return cast(Objective, self.objectives[place])

    def setup(self, backbone: nn.Module) -> None:
        for place in range(len(self.objectives)):
            self._child(place).setup(backbone)

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        self._last = self.choose(context)
        step = self._child(self._last)(backbone, batch, context)
        idle = self._idle_parameters()
        if idle:
            # DDP waits for a gradient of every parameter; theirs is zero in this step
            step.loss = step.loss + 0.0 * torch.stack([parameter.sum() for parameter in idle]).sum().to(step.loss)
        step.terms = {**step.terms, "alternate": torch.full((), float(self._last), device=step.loss.device)}
        return step

    def _idle_parameters(self) -> list[nn.Parameter]:
        """Whole trainable parameters of the children that are not chosen and that the chosen one does not share."""
        used = {id(parameter) for parameter in self._child(self._last).parameters()}
        idle = [p for p in self.objectives.parameters() if p.requires_grad and id(p) not in used]
        # sharded ones (FSDP2's, or ZeRO-3's, which are empty here) are not waited for
        return [p for p in idle if p.numel() and not hasattr(p, "full_tensor")]

    def after_step(self, backbone: nn.Module) -> None:
        self._child(self._last).after_step(backbone)
