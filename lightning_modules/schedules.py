"""Learning-rate schedules by the share of training, stepped every optimizer step."""

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import RectifyError
from .timeline import Timeline


class Schedule:
    """A factor on the base learning rate as a function of progress in [0, 1].

    Args:
        warmup: share of training with a linear rise from zero, in [0, 1).
    """

    def __init__(self, warmup: float = 0.0):
        if not 0 <= warmup < 1:
            raise RectifyError(f"schedule: warmup is {warmup}; give the share of training, in [0, 1).")
        self.warmup = warmup

    def factor(self, progress: float) -> float:
        """The factor after warm-up, for progress in [0, 1] of the remaining training."""
        return 1.0

    def build(self, optimizer: Optimizer, timeline: Timeline) -> LambdaLR:
        """Return the scheduler that follows a timeline, also when that restarts.

        Raises:
            RectifyError: the length of training is unknown.
        """
        if not math.isfinite(timeline.total):
            raise RectifyError("schedule: the length of training is unknown; set trainer.max_epochs or max_steps.")

        def factor(step: int) -> float:
            progress = timeline.progress(step)
            if progress < self.warmup:
                one = 1 / timeline.total  # so that the first step does not have rate zero
                return (progress + one) / (self.warmup + one)
            return self.factor((progress - self.warmup) / (1 - self.warmup))

        return LambdaLR(optimizer, factor)


class Constant(Schedule):
    """A constant rate, after an optional warm-up."""


class Cosine(Schedule):
    """Half a cosine from the base rate down to `final` times it.

    Args:
        warmup: share of training with a linear rise from zero, in [0, 1).
        final: last rate as a share of the base rate.
    """

    def __init__(self, warmup: float = 0.0, final: float = 0.0):
        super().__init__(warmup)
        self.final = final

    def factor(self, progress: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


class OneCycle(Schedule):
    """Linear rise to the base rate over the share `peak`, then linear fall to zero (Smith 2018)."""

    def __init__(self, peak: float = 0.3):
        super().__init__(warmup=peak)

    def factor(self, progress: float) -> float:
        return 1 - progress


class Steps(Schedule):
    """The rate times `gamma` at each milestone.

    Args:
        milestones: shares of training in (0, 1), rising: `[0.5, 0.75]` is epochs 100 and 150 of 200.
        gamma: factor at each.
        warmup: share of training with a linear rise from zero, in [0, 1).
    """

    def __init__(self, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1, warmup: float = 0.0):
        super().__init__(warmup)
        if any(not 0 < share < 1 for share in milestones) or list(milestones) != sorted(milestones):
            raise RectifyError(
                f"schedule: milestones are {list(milestones)}; give rising shares of training in (0, 1)."
            )
        # factor() sees the share after warm-up, milestones are shares of the whole
        self.milestones = [(share - warmup) / (1 - warmup) for share in milestones]
        self.gamma = gamma

    def factor(self, progress: float) -> float:
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)
