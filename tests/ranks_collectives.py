import torch
import torch.distributed as dist
from processes import report, start

from lightning_rectify.collectives import (
    any_rank,
    broadcast_object,
    from_rank_zero,
    gather_rows,
    gather_rows_with_gradient,
    gather_with_gradient,
    global_mean_weight,
    row_counts,
    sum_over_ranks,
)
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import TermMeans

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

# training with alternating terms, stopped after two steps and resumed: the first step after it has the other terms
steps = [{"loss": 1.0, "a": 2.0}, {"loss": 3.0, "b": 4.0}, {"loss": 5.0, "b": 6.0 + rank}, {"loss": 7.0, "a": 8.0}]
device = torch.device("cpu")
whole_means, before, after = TermMeans(), TermMeans(), TermMeans()
for means, part in ((whole_means, steps), (before, steps[:2])):
    for terms in part:
        means.update(terms, 2 + rank, device)
after.load_state_dict(before.state_dict(), device)
for terms in steps[2:]:
    after.update(terms, 2 + rank, device)
means = [{name: float(value) for name, value in means.compute().items()} for means in (whole_means, after)]


# what rank 0 finds, and what it breaks on, also where the error cannot be packed
def failing(error):
    def function():
        raise error

    try:
        from_rank_zero(function)
    except Exception as met:
        return f"{type(met).__name__}: {met}"


class Local(Exception):
    def __reduce__(self):
        raise TypeError("not to be packed")


told = [from_rank_zero(lambda: {"from": rank}), failing(RectifyError("bins is 1.")), failing(Local("x"))]

report(
    {
        "told": told,
        "sum": sum_over_ranks(torch.tensor([1.0 + rank, 2.0 + rank])),
        "rows": [piece.tolist() for piece in gather_rows(torch.tensor([0.0, 1.0] if rank == 0 else [10.0]))],
        "any": [any_rank(rank == 1), any_rank(False)],
        "object": broadcast_object({"from": rank}),
        "counts": counts,
        "uneven": averaged(of_uneven),
        "whole": averaged(whole),
        "share": averaged(share),
        "normalised": averaged(normalised),
        "means": means,
    }
)
