"""The state in which an attack sees a network, and the network as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm


def sharded(backbone: nn.Module) -> bool:
    """Whether a rank holds only a part of the weights (FSDP2, ZeRO-3)."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in backbone.parameters())


def replaceable(backbone: nn.Module) -> bool:
    """Whether other weights can stand in: a rank holds them whole, and no compiled program has taken them in."""
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in backbone.modules())
    return not compiled and not sharded(backbone)


@contextmanager
def undisturbed(backbone: nn.Module, batch_statistics: bool) -> Iterator[None]:
    """Put every module into eval mode and freeze the weights; undo both one by one, also when the block raises.

    Args:
        batch_statistics: batch norms normalise by the batch instead of their running statistics, which stay untouched
            either way. While the network trains, those the user put into eval mode stay in it.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    trains = any(training for _, training in modes)
    norms = [
        module
        for module, training in modes
        if batch_statistics
        and isinstance(module, _BatchNorm)
        and module.track_running_stats
        and (training or not trains)
    ]
    # A strategy that gathers weights notes at the first gathering whether they are trained, so they must not look
    # frozen then. There `autograd.grad` on the input alone keeps weight gradients away.
    weights = [] if sharded(backbone) else [p for p in backbone.parameters() if p.requires_grad]
    try:
        for module, _ in modes:
            module.training = False
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for module, training in modes:
            module.training = training
        for weight in weights:
            weight.requires_grad_(True)
