"""Look at a network without leaving a trace."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def frozen_eval(model: nn.Module, *, input_gradients: bool = False, fork_rng: bool = True) -> Iterator[None]:
    """Evaluate `model` inside the block and leave it exactly as it was found.

    Each module's own train/eval mode, each parameter's `requires_grad` and `.grad`, the buffers' contents (eval mode
    updates none) and, with `fork_rng`, the global random state of the CPU and of the model's CUDA devices are as before
    afterwards, also when the block raises. Autocast is switched off: the caller opens its own if it wants one. Compiled
    modules run eagerly, because hooks added after the first compiled call never fire.

    Args:
        model: any module, not a DDP wrapper.
        input_gradients: open the block with gradients enabled even inside `inference_mode` or `no_grad`, with the
            weights frozen so that only inputs collect gradients; otherwise the block runs under `no_grad`. Tensors made
            in `inference_mode` must be cloned inside the block before they can take part in a graph.
        fork_rng: fence the global random state; it costs a copy of each generator's state.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    places = {parameter.device for parameter, _ in wanted}
    with ExitStack() as stack:
        stack.callback(_restore, modes, wanted)
        # flags, not model.eval(): an overridden train() may do more than set the mode (merge adapters, keep a norm)
        for module, _ in modes:
            module.training = False
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        if fork_rng:
            stack.enter_context(torch.random.fork_rng([place for place in places if place.type == "cuda"]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(input_gradients))
        for kind in {"cpu", *(place.type for place in places)} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if any(_compiled(module) for module, _ in modes):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _restore(modes: list[tuple[nn.Module, bool]], wanted: list[tuple[nn.Parameter, bool]]) -> None:
    for module, training in modes:
        module.training = training
    for parameter, requires_grad in wanted:
        parameter.requires_grad_(requires_grad)


def _compiled(module: nn.Module) -> bool:
    """Compiled in place, as a wrapper, or by its forward alone, as Lightning does with a LightningModule."""
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return True
    return hasattr(module.forward, "_torchdynamo_orig_callable")
