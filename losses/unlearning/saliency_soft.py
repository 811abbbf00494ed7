"""SalUn-soft (Fan et al. 2024, arXiv 2310.12508): random labelling with a proximal step towards the original."""

from typing import Literal

import torch
from torch import nn

from ...errors import RectifyError
from ..objective import Context, Step
from .frozen_copy import FrozenCopy
from .order_statistic import kth_smallest
from .random_label import RandomLabel


class SaliencySoft(RandomLabel):
    """Random labelling; after each step the displacement θ - θ₀ is soft-thresholded.

    The threshold is the value below which a share of all displacements lies: those return to θ₀ bit for bit, the
    others come nearer by the threshold. The share falls linearly to 0 over the training. θ₀ are the weights at the
    start, of the whole run; the published code takes those at the start of each epoch.

    Args:
        ratio: share at the start, in [0, 1].
        exclude_true, labels: see RandomLabel.

    Raises:
        RectifyError: ratio outside [0, 1].
    """

    writes_weights = True
    frozen_copies = 1

    def __init__(self, ratio: float = 0.5, exclude_true: bool = False, labels: Literal["batch", "epoch"] = "batch"):
        super().__init__(exclude_true, labels)
        if not 0 <= ratio <= 1:
            raise RectifyError(f"SaliencySoft: ratio is {ratio}; give a share in [0, 1].")
        self.ratio = ratio
        self._share = ratio  # of this step; the forward pass of a step comes before its end

    def setup(self, backbone: nn.Module) -> None:
        self.start = FrozenCopy(backbone)

    def forward(self, backbone: nn.Module, batch: dict, context: Context) -> Step:
        self._share = self.ratio * max(0.0, 1 - context.progress)
        return super().forward(backbone, batch, context)

    @torch.no_grad()
    def after_step(self, backbone: nn.Module) -> None:
        origin = dict(self.start.network.named_parameters())
        pairs = [(weight, origin[name]) for name, weight in backbone.named_parameters() if weight.requires_grad]
        count = int(self._share * sum(weight.numel() for weight, _ in pairs))
        if count < 1:
            return
        threshold = kth_smallest([(weight - anchor).abs_() for weight, anchor in pairs], count)
        for weight, anchor in pairs:
            moved = weight - anchor
            # so and not by sign · relu: θ₀ + (θ - θ₀) is not always θ, and θ₀ must come back exactly
            weight.copy_(torch.where(moved.abs() <= threshold, anchor, weight - threshold * moved.sign()))
