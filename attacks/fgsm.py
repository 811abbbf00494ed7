"""Attacks of one step: FGSM (Goodfellow et al. 2015) and N-FGSM (de Jorge et al. 2022)."""

import torch
from torch import Tensor

from ..errors import RectifyError
from ..ratio import Number
from ._arguments import EPS, check_budget, per_sample
from ._view import View
from .attack import Attack
from .evidence import AdversarialBatch, Budget
from .pgd import PGD


class FGSM(PGD):
    """One sign step of length eps from the image itself; a sanity check, not a measure of robustness.

    Args:
        eps: L∞ radius, in pixels in [0, 1].
    """

    def __init__(self, eps: Number = EPS, bf16: bool = False, channels_last: bool = False):
        super().__init__(eps, eps, 1, start="none", bf16=bf16, channels_last=channels_last)


class NFGSM(Attack):
    """One sign step from uniform noise wider than the ball, without projection into it (arXiv 2202.01181).

    The image may move by (noise + 1)·eps; it stays in [0, 1]. For training only. The published code runs it in training
    mode: `batch_statistics`.

    Args:
        eps: length of the step, in pixels in [0, 1].
        noise: k: the noise is U(-k·eps, k·eps); 2 is the paper's.
        batch_statistics, bf16, channels_last: see Attack.
    """

    def __init__(
        self,
        eps: Number = EPS,
        noise: float = 2.0,
        batch_statistics: bool = False,
        bf16: bool = False,
        channels_last: bool = False,
    ):
        check_budget("NFGSM", eps, eps, 1, "linf")
        if noise < 0:
            raise RectifyError(f"NFGSM: noise is {noise}; it is a multiple of eps, 0 or more.")
        self.eps, self.noise = float(eps), noise
        self.batch_statistics, self.bf16, self.channels_last = batch_statistics, bf16, channels_last

    def search(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> AdversarialBatch:
        eps = per_sample(self.eps if budget.eps is None else budget.eps, image)
        length = per_sample(self.eps if budget.step_size is None else budget.step_size, image)
        x = torch.empty_like(image).uniform_(-self.noise, self.noise, generator=generator)
        x = x.mul_(eps).add_(image).clamp_(0, 1)
        step = view.gradient(x).sign_().mul_(length)
        return AdversarialBatch(x.add_(step).clamp_(0, 1), view.evidence())
