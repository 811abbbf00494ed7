"""Look at a network without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen_eval(model: nn.Module, *, input_gradients: bool = False, fork_rng: bool = True) -> Iterator[None]:
    """Evaluate `model` inside the block and leave it exactly as it was found.

    Each module's own train/eval mode, each parameter's `requires_grad` and `.grad`, the buffers' contents (eval mode
    updates none) and, with `fork_rng`, the global random state of CPU and current CUDA device are as before
    afterwards, also when the block raises. Autocast is switched off: the caller opens its own if it wants one.

    Args:
        model: any module, not a DDP wrapper.
        input_gradients: open the block with gradients enabled even inside `inference_mode` or `no_grad`, with the
            weights frozen so that only inputs collect gradients; otherwise the block runs under `no_grad`.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    device_type = wanted[0][0].device.type if wanted else "cpu"
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with (
            torch.random.fork_rng(devices, enabled=fork_rng),
            torch.inference_mode(False),
            torch.set_grad_enabled(input_gradients),
            torch.autocast(device_type, enabled=False),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
