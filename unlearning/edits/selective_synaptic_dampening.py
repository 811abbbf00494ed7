"""SSD (Foster et al. 2024, arXiv 2308.07707): dampen the weights that matter more to what is forgotten."""

import torch
from torch import nn

from ...errors import RectifyError
from ._gradients import check_found, fisher_diagonal, looked_at
from .edit import Batches, Edit


class SSD(Edit):
    """θ ← min(λ · F / F_forget, 1) · θ where F_forget > α · F; the other weights stay bit for bit.

    F and F_forget are mean squared gradients over all training samples and over those to forget.

    Args:
        alpha: α > 0; published 10.
        dampening: λ > 0; published 1.
        per_sample: square the gradient of each sample; otherwise that of each batch's mean loss, as published. F is
            then the mean over the batches of both sets, so batches of equal size are wanted.

    Raises:
        RectifyError: alpha or dampening of 0 or less.
    """

    def __init__(self, alpha: float = 10.0, dampening: float = 1.0, per_sample: bool = False):
        for name, value in (("alpha", alpha), ("dampening", dampening)):
            if not value > 0:
                raise RectifyError(f"SSD: {name} is {value}; it must be above 0.")
        self.alpha, self.dampening, self.per_sample = alpha, dampening, per_sample

    def apply(self, backbone: nn.Module, forget: Batches, retain: Batches) -> None:
        with looked_at(backbone, "SSD") as weights:
            of_forget, n_forget = fisher_diagonal(backbone, weights, forget, self.per_sample)
            of_retain, n_retain = fisher_diagonal(backbone, weights, retain, self.per_sample)
        check_found("SSD", n_forget, n_retain)
        for name, weight in weights.items():
            own = of_forget[name] / n_forget
            everywhere = (of_forget[name] + of_retain[name]) / (n_forget + n_retain)
            share = (self.dampening * everywhere / own).clamp(max=1)
            weight.copy_(torch.where(own > self.alpha * everywhere, weight * share, weight))
