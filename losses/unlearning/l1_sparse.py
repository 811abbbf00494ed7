"""l1-sparse unlearning (Jia et al. 2023, arXiv 2304.04934): fine-tuning under a penalty that fades."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...collectives import sum_over_ranks
from ...errors import RectifyError
from ..objective import Context, Step
from .fine_tune import FineTune


class L1Sparse(FineTune):
    """Fine-tuning plus strength · (1 - progress / until) · ‖θ‖₁ over all trained weights of the backbone.

    Logs the norm as `l1`. Under FSDP2 each rank answers for the weights it holds.

    Args:
        strength: γ ≥ 0; published range 1e-6 to 1e-4 (the default of the published code, 0.2, erases the network).
        until: share of the training at which the penalty has faded, in (0, 1].

    Raises:
        RectifyError: a value out of range.
    """

    whole_weights = True

    def __init__(self, strength: float = 1e-5, until: float = 1.0):
        super().__init__()
        if not strength >= 0:
            raise RectifyError(f"L1Sparse: strength is {strength}; it must be 0 or more.")
        if not 0 < until <= 1:
            raise RectifyError(f"L1Sparse: until is {until}; give a share of the training in (0, 1].")
        self.strength, self.until = strength, until

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        step = super().forward(backbone, batch, context)
        # after the pass, so that its gradient comes first and FSDP2's reduction adds to it on its own stream
        norm = l1_norm(p for p in backbone.parameters() if p.requires_grad)
        step.loss = step.loss + self.strength * max(0.0, 1 - context.progress / self.until) * norm
        step.terms["l1"] = norm.detach()
        return step


def l1_norm(weights: Iterable[Tensor]) -> Tensor:
    """Return the sum of absolute values; of sharded tensors over all ranks, with the gradient of the own shard."""
    whole: list[Tensor] = []
    shards: list[Tensor] = []
    for weight in weights:
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        (shards if isinstance(weight, DTensor) else whole).append(local.abs().sum())
    total = torch.stack(whole).sum() if whole else torch.stack(shards).new_zeros(())
    if shards:
        own = torch.stack(shards).sum()
        total = total + own + (sum_over_ranks(own.detach()) - own.detach())
    return total
