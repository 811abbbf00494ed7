"""What a training will cost, said before it starts."""

from collections.abc import Iterable

from torch import Tensor, nn

from ..losses.objective import Objective

# tensors of a weight's size that an optimizer keeps for it; others are taken for two
OPTIMIZER_SLOTS = {"SGD": 1, "Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "RMSprop": 1, "Adagrad": 1, "Muon": 1}


def cost_line(backbone: nn.Module, objective: Objective, optimizers: Iterable[str], steps: float) -> str:
    """One line: passes a step, memory of weights, gradients, optimizer and frozen copies in one process.

    Args:
        optimizers: class names.
        steps: optimizer steps of the whole training, infinite if unknown.
    """
    weights = _bytes(backbone.parameters())
    trained = _bytes(p for p in (*backbone.parameters(), *objective.parameters()) if p.requires_grad)
    frozen = _bytes(p for p in objective.parameters() if not p.requires_grad)
    slots = max((OPTIMIZER_SLOTS.get(name, 2) for name in optimizers), default=0)
    length = "an unknown number of" if steps == float("inf") else f"{steps:,.0f}"
    copies = f", {objective.frozen_copies} frozen copies {_size(frozen)}" if objective.frozen_copies else ""
    return (
        f"Cost: {length} steps of {objective.passes:g} forward and backward passes; weights {_size(weights)}, "
        f"gradients {_size(trained)}, optimizer {_size(slots * trained)}{copies}, activations not counted."
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
