"""Distributed primitives; each is the identity in one process.

Rule: whatever weights samples is a global statistic. Reduce sums and counts, never means of means.
"""

import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather as all_gather_with_gradient


def is_distributed() -> bool:
    """Whether a process group of more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum a tensor of equal shape on every rank, out of place and without gradient."""
    if not is_distributed():
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def any_rank(flag: bool | Tensor) -> bool:
    """Whether the flag is set on at least one rank; every rank must call this (one host sync)."""
    if not is_distributed():
        return bool(flag)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.as_tensor(flag).to(device=device, dtype=torch.int32)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value)


def row_counts(count: int, device: torch.device) -> list[int]:
    """Return every rank's row count.

    On a GPU the exchange runs on a stream of its own, so that the host waits for the other ranks but not for the
    forward pass queued before.
    """
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    with torch.cuda.stream(side):
        own = torch.tensor([count], device=device)
        counts = [torch.zeros_like(own) for _ in range(world_size())]
        dist.all_gather(counts, own)
        return torch.cat(counts).tolist()


def _padded(value: Tensor, count: int) -> Tensor:
    return torch.cat((value, value.new_zeros((count - len(value), *value.shape[1:])))).contiguous()


def gather_rows(value: Tensor, counts: list[int] | None = None) -> list[Tensor]:
    """Gather (n_r, ...) tensors whose first size may differ between ranks, without gradient, in rank order.

    Args:
        counts: the sizes, if they were exchanged before by `row_counts`.
    """
    if not is_distributed():
        return [value]
    counts = row_counts(len(value), value.device) if counts is None else counts
    padded = _padded(value.detach(), max(counts))
    pieces = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(pieces, padded)
    return [piece[:count] for piece, count in zip(pieces, counts, strict=True)]


def gather_rows_with_gradient(value: Tensor, counts: list[int] | None = None) -> list[Tensor]:
    """As `gather_rows`, with the gradient of `gather_with_gradient`: the backward sums the gradients of all ranks."""
    if not is_distributed():
        return [value]
    counts = row_counts(len(value), value.device) if counts is None else counts
    pieces = all_gather_with_gradient(_padded(value, max(counts)))
    return [piece[:count] for piece, count in zip(pieces, counts, strict=True)]


def gather_with_gradient(value: Tensor) -> Tensor:
    """Concatenate equal-sized (n, ...) tensors of all ranks to (W·n, ...); the gradient flows back to each rank.

    The backward sums the gradients of all ranks. With DDP's average a loss that every rank computes whole therefore has
    the gradient of one process; a loss of which each rank computes its own share must be multiplied by W.
    """
    if not is_distributed():
        return value
    return torch.cat(all_gather_with_gradient(value.contiguous()))


def global_mean_weight(count: Tensor | int, device: torch.device) -> Tensor:
    """Return W / Σ_ranks count: times a local sum, DDP's averaged gradient is that of the global mean."""
    total = sum_over_ranks(torch.as_tensor(count, dtype=torch.float32, device=device))
    return world_size() / total.clamp_min(1)


def broadcast_object(value: Any) -> Any:
    """Return rank 0's picklable value on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_rank_zero(function: Callable[[], Any]) -> Any:
    """Call `function` on rank 0 alone and return its picklable result on every rank; what it raises is raised on all.

    The other ranks wait, as long as the process group's timeout lets them.
    """
    if not is_distributed():
        return function()
    told: tuple[Any, Exception | None] = (None, None)
    if rank() == 0:
        try:
            told = function(), None
        except Exception as error:  # the others would wait for ever
            told = None, _sendable(error)
    value, failure = broadcast_object(told)
    if failure is not None:
        raise failure
    return value


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error may refuse to be packed in any way
        return RuntimeError(f"rank 0: {error!r}")
    return error
