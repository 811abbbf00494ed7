"""Whether an optimizer leaves alone the weights whose gradient is zero: tried out on a small weight."""

import inspect

import torch
from torch import nn

from ..randomness import keyed_generator


def moves_without_gradient(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer built like this one moves entries whose gradient was always zero.

    Weight decay does, matrix optimizers do, and so does noise. An optimizer that cannot be built again from its options
    is taken to be sound.
    """
    known = inspect.signature(type(optimizer)).parameters
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name in known and name != "params"}
        if "lr" in options:
            options["lr"] = 0.01  # a warm-up may start at 0
        generator = keyed_generator("moves_without_gradient")
        weight = nn.Parameter(torch.randn(4, 4, generator=generator))
        free = torch.tril(torch.ones(4, 4, dtype=torch.bool))
        before = weight.detach().clone()
        try:
            twin = type(optimizer)([weight], **options)
            with torch.random.fork_rng([]):
                for _ in range(3):
                    weight.grad = torch.randn(4, 4, generator=generator) * free
                    twin.step()
        except Exception:
            continue
        if not torch.equal(weight.detach()[~free], before[~free]):
            return True
    return False


def has_history(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer holds a moment that is not zero: it would move weights that get no gradient any more."""
    return any(
        isinstance(value, torch.Tensor) and value.shape == weight.shape and value.ndim > 0 and bool(value.any())
        for weight, state in optimizer.state.items()
        for value in state.values()
    )
