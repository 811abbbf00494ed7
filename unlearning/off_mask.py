"""The weights that must not move, and whether they did."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .parameter_names import plainly_named
from .weight_mask import WeightMask


class OffMaskWeights:
    """The values off a mask, of every parameter of a network, on the CPU.

    Args:
        mask: which weights may move; a parameter it does not list is held whole.
        values: the held values by plain name, flat.
    """

    def __init__(self, mask: WeightMask, values: dict[str, Tensor]):
        self.mask = mask
        self.values = values

    @classmethod
    @torch.no_grad()
    def take(cls, mask: WeightMask, network: nn.Module) -> "OffMaskWeights":
        """Copy the held values of whole weights."""
        named = plainly_named(network)
        return cls(mask, {name: _off(mask, name, parameter.detach()).clone() for name, parameter in named})

    @torch.no_grad()
    def drift(self, name: str, weight: Tensor) -> float:
        """Largest |difference| of a whole parameter from the held values, 0 only if all are equal.

        A network that trains in a narrower type is compared with the held values rounded to it, as its weights were.
        """
        now = _off(self.mask, name, weight.detach())
        held = self.values[name].to(now.dtype)
        if torch.equal(now, held):
            return 0.0
        return float((now.double() - held.double()).abs().nan_to_num(nan=torch.inf).max())

    def largest_drift(self, weights: Iterable[tuple[str, Tensor]]) -> tuple[float, list[str]]:
        """Return the largest drift over whole parameters by plain name, and the names of those that moved."""
        drifts = [(self.drift(name, weight), name) for name, weight in weights]
        moved = [name for drift, name in drifts if drift > 0]
        return max((drift for drift, _ in drifts), default=0.0), list(dict.fromkeys(moved))

    @property
    def bytes(self) -> int:
        """Memory of the held values."""
        return sum(value.numel() * value.element_size() for value in self.values.values())

    def state_dict(self) -> dict[str, Any]:
        """Mask and values, for a checkpoint."""
        return {"mask": self.mask.state_dict(), "values": self.values}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "OffMaskWeights":
        values = {name: value.cpu() for name, value in state["values"].items()}
        return cls(WeightMask.from_state_dict(state["mask"]), values)


def _off(mask: WeightMask, name: str, weight: Tensor) -> Tensor:
    flat = weight.reshape(-1).cpu()
    if name not in mask.packed:
        return flat
    kept = mask.kept(name)
    if kept == flat.numel():
        return flat[:0]
    return flat if kept == 0 else flat[~mask.bits(name).reshape(-1)]
