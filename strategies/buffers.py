"""Rank 0's buffers on every rank, as DDP does it, for the strategies that leave buffers alone."""

import torch
import torch.distributed as dist
from torch import nn

from ..collectives import is_distributed

_BUCKET_BYTES = 1 << 20


def broadcast_buffers(module: nn.Module) -> None:
    """Overwrite the buffers of `module` with those of rank 0; every rank must call this.

    FSDP2 and DeepSpeed never synchronise buffers, so batch-norm statistics would drift apart between ranks and a metric
    would depend on which rank saw a sample. DDP broadcasts them before each forward; so do our strategies.
    """
    if is_distributed():
        buffers = [buffer.detach() for buffer in module.buffers() if buffer.numel()]
        if buffers:
            dist._broadcast_coalesced(torch.distributed.group.WORLD, buffers, _BUCKET_BYTES, 0)  # type: ignore[attr-defined,arg-type]
