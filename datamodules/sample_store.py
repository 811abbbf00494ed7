"""State per training sample: weights, scores, counts, by the stable index, the same on every process."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import collectives
from ..errors import RectifyError


class SampleStore(nn.Module):
    """An fp32 value for each sample of a data set, (N, *shape), in a buffer.

    Every process holds all of it and applies every process's update in the order of the global batch, so the copies
    stay bit-identical, the checkpoint of one process holds everything, and a restart may use another number of
    processes. `add` sums all changes of an index that comes more than once, in one batch or on several processes;
    `assign` keeps the one at the last global position (row b of rank r stands at b·W + r, as the loader deals them).
    Multiplicative updates are additive in the logarithm.

    Both are collective: every process calls them in the same step with equally many rows. A row to be ignored gets
    a false `mask`. Neither waits for the device.

    Args:
        size: samples N of the data set, all splits (`len(datamodule.index.key)`), because the index counts them all.
        fill: the value at the start.
        shape: of one sample's value.
    """

    value: Tensor

    def __init__(self, size: int, fill: float = 0.0, shape: tuple[int, ...] = ()):
        super().__init__()
        if size < 1:
            raise RectifyError(f"SampleStore: size is {size}; give the number of samples in the data set.")
        self.register_buffer("value", torch.full((size, *shape), fill, dtype=torch.float32))

    def forward(self, index: Tensor) -> Tensor:
        """Return the values of (B,) indices, (B, *shape)."""
        return self.value[index]

    @torch.no_grad()
    def add(self, index: Tensor, change: Tensor, mask: Tensor | None = None) -> None:
        """Add (B, *shape) changes; repeated indices add up."""
        index, change, mask = self._global(index, change, mask)
        change = change.masked_fill(~_column(mask, change), 0)
        if self.value.is_cuda:
            self.value.index_put_((index,), change, accumulate=True)  # sorts, so the sums are the same everywhere
        else:
            self.value.index_add_(0, index, change)

    @torch.no_grad()
    def assign(self, index: Tensor, value: Tensor, mask: Tensor | None = None) -> None:
        """Set (B, *shape) values; of a repeated index the last global position wins."""
        index, value, mask = self._global(index, value, mask)
        count = len(index)
        position = torch.where(mask, torch.arange(count, device=index.device), -1)
        last = torch.full((len(self.value),), -1, device=index.device).scatter_reduce_(0, index, position, "amax")
        winner = last[index]  # every row writes what the last row of its index has: equal writes do not race
        kept = torch.where(_column(winner >= 0, value), value[winner.clamp_min(0)], self.value[index])
        self.value[index] = kept

    def _global(self, index: Tensor, change: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gather the rows of all processes in the order of the global batch."""
        if index.shape[:1] != change.shape[:1] or change.shape[1:] != self.value.shape[1:]:
            raise RectifyError(
                f"SampleStore: {tuple(index.shape)} indices and {tuple(change.shape)} values do not fit a store of "
                f"{tuple(self.value.shape)}; give one row of shape {tuple(self.value.shape[1:])} per index."
            )
        mask = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
        rows = [index, change.detach().to(self.value.dtype), mask.to(torch.uint8)]
        index, change, mask = (_interleaved(row.to(self.value.device)) for row in rows)
        return index, change, mask.bool()

    def extra_repr(self) -> str:
        return f"{tuple(self.value.shape)}"


def _column(flag: Tensor, like: Tensor) -> Tensor:
    return flag.view(-1, *[1] * (like.dim() - 1))


def _interleaved(rows: Tensor) -> Tensor:
    """(B, ...) of every process to (B·W, ...), row b of rank r at b·W + r."""
    if not collectives.is_distributed():
        return rows
    world = collectives.world_size()
    out = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world)]
    dist.all_gather(out, rows.contiguous())
    return torch.stack(out, dim=1).flatten(0, 1)
