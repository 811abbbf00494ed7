import torch
import torch.distributed as dist
from processes import report, start

from lightning_rectify.collectives import (
    any_rank,
    broadcast_object,
    gather_rows,
    gather_rows_with_gradient,
    gather_with_gradient,
    global_mean_weight,
    row_counts,
    sum_over_ranks,
)

rank, world = start()


def averaged(gradient):
    """What DDP does to a gradient."""
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient / world


data = torch.arange(8, dtype=torch.float64).view(4, 2)[2 * rank : 2 * rank + 2] / 10

weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
rows = gather_with_gradient(data * weight)
(whole,) = torch.autograd.grad((rows @ rows.T).tanh().sum(), weight)

all_rows = torch.arange(8, dtype=torch.float64).view(4, 2) / 10
uneven = all_rows[:1] if rank == 0 else all_rows[1:]
counts = row_counts(len(uneven), uneven.device)
rows = torch.cat(gather_rows_with_gradient(uneven * weight, counts))
(of_uneven,) = torch.autograd.grad((rows @ rows.T).tanh().sum(), weight)

own = data * weight
rows = gather_with_gradient(own)
(share,) = torch.autograd.grad((own @ rows.T).tanh().sum() * world, weight)

scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
mine = torch.tensor([1.0, 2.0] if rank == 0 else [3.0], dtype=torch.float64)
loss = (mine * scale).exp().sum() * global_mean_weight(len(mine), mine.device)
(normalised,) = torch.autograd.grad(loss, scale)

report(
    {
        "sum": sum_over_ranks(torch.tensor([1.0 + rank, 2.0 + rank])),
        "rows": [piece.tolist() for piece in gather_rows(torch.tensor([0.0, 1.0] if rank == 0 else [10.0]))],
        "any": [any_rank(rank == 1), any_rank(False)],
        "object": broadcast_object({"from": rank}),
        "counts": counts,
        "uneven": averaged(of_uneven),
        "whole": averaged(whole),
        "share": averaged(share),
        "normalised": averaged(normalised),
    }
)
