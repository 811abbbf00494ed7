"""The network as it was before any training."""

import copy

import torch
from torch import nn

from ..randomness import global_seed, keyed_generator


def untrained_copy(model: nn.Module) -> nn.Module | None:
    """Return a copy with weights and statistics drawn anew by each layer's own `reset_parameters`; None if that is
    impossible: a parameter belongs to a module without one.

    The draw depends on the run's seed alone; the global random state is as before.
    """
    fresh = copy.deepcopy(model)
    reached: set[int] = set()
    seed = int(torch.randint(2**31, (), generator=keyed_generator(global_seed(), "untrained")))
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                reached |= {id(parameter) for parameter in module.parameters()}
    return fresh if all(id(parameter) in reached for parameter in fresh.parameters()) else None
