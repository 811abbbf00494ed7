"""Metrics whose state is sums: exact to add up over batches and ranks in any order."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ..errors import RectifyError


def sum_type(device: torch.device) -> torch.dtype:
    """The float type of running sums: float64, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


class SumMetric(Metric):
    """A metric whose states all start at zero and are reduced by sum; a subclass declares them with `add_sum`.

    Casting the module that holds it (`.half()`, `.to(torch.bfloat16)`, as bf16-true precision and DeepSpeed do) moves
    the sums to another device but never rounds them; torchmetrics' own guard misses `.to(dtype)`.
    """

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        """Declare a state `self.<name>` of zeros; int64 for counts."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def refuse_nan(self, values: Tensor) -> None:
        """Raise RectifyError if a sum is NaN, as a NaN logit makes it; for `compute`, as it waits for the device."""
        if values.isnan().any():
            raise RectifyError(
                f"{type(self).__name__}: some logits are NaN; the network has diverged, or its input is broken."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def move(value: Tensor) -> Tensor:
            device = fn(value.new_empty(0)).device
            return value.to(device, sum_type(device)) if value.is_floating_point() else value.to(device)

        return super()._apply(move, exclude_state)
