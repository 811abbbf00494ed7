"""Gradients of every unlearning objective and schedule in one process, or in two under DDP that share a batch unevenly.

A mixed batch has all of its samples to forget on rank 0.
"""

import torch
from processes import report, start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_rectify.attacks import PGD
from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import (
    Amun,
    BadTeacher,
    BoundaryExpand,
    BoundaryShrink,
    Context,
    FineTune,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    Rurk,
    SaliencySoft,
    Scrub,
    SFRon,
)

N, STEPS, SPLIT = 10, 2, 7


def rurk():
    objective = Rurk()
    objective.attack = PGD(steps=2, start="none")  # nothing drawn: two processes then see the images of one
    return objective


OBJECTIVES = {
    "random_label": lambda: RandomLabel(labels="epoch"),
    "random_label_excluding": lambda: RandomLabel(True, "epoch"),
    "gradient_ascent": GradientAscent,
    "fine_tune": FineTune,
    "l1_sparse": lambda: L1Sparse(1e-3),
    "neg_grad_plus": lambda: NegGradPlus(0.6),
    "scrub": lambda: Scrub(0.5, 0.5),
    "bad_teacher": BadTeacher,
    "boundary_shrink": BoundaryShrink,
    "boundary_expand": BoundaryExpand,
    "saliency_soft": lambda: SaliencySoft(0.3, labels="epoch"),
    "sfron": lambda: SFRon(2.0, every=2),
    "amun": lambda: Amun(steps=1, doublings=1),
    "rurk": rurk,
}


class Trained(nn.Module):
    """What Lightning hands to DDP: a forward that runs the objective on the plain backbone."""

    def __init__(self, backbone, objective):
        super().__init__()
        self.backbone, self.objective, self.terms = backbone, objective, {}

    def forward(self, batch, context):
        step = self.objective(self.backbone, batch, context)
        self.terms = step.terms
        return step.loss


def part(rows, step, kind):
    generator = torch.Generator().manual_seed(10 * step + kind)
    image = torch.rand((N, 1, 8, 8), generator=generator, dtype=torch.float64)
    label = torch.randint(4, (N,), generator=generator)
    return {"image": image[rows], "label": label[rows], "index": rows + N * (2 * step + kind)}


def make_batch(schedule, rows, step):
    if schedule == "retain":
        return part(rows, step, 1)
    if schedule == "mixed":
        return {**part(rows, step, 0), "forget": rows < 3}
    forgets = schedule in ("paired", "forget") or step == 0
    retains = schedule == "paired" or (schedule != "forget" and step > 0)
    return {"forget": part(rows, step, 0) if forgets else None, "retain": part(rows, step, 1) if retains else None}


def gradients(objective, schedule, rows, rank, world):
    torch.manual_seed(0)
    backbone = ResNet(4, 1, norm="group", width=4).double()
    objective.setup(backbone)
    with torch.no_grad():  # so that the network is no longer what its teachers are copies of
        for weight in backbone.parameters():
            weight += 0.05 * torch.randn(weight.shape, dtype=weight.dtype)
    trained = Trained(backbone, objective)
    wrapped = DistributedDataParallel(trained, find_unused_parameters=False) if world > 1 else trained
    weights = [p for p in trained.parameters() if p.requires_grad]
    found, terms = [], []
    for step in range(STEPS):
        trained.zero_grad()
        wrapped(make_batch(schedule, rows, step), Context(step, step / STEPS, (0, rank, 0, step))).backward()
        found.append(torch.cat([p.grad.flatten() for p in weights]))
        terms.append({name: float(value) for name, value in trained.terms.items()})
        with torch.no_grad():
            for p in weights:
                p -= 0.05 * p.grad
        objective.after_step(backbone)
    return {
        "gradients": torch.stack(found),
        "terms": terms,
        "weights": torch.cat([p.detach().flatten() for p in weights]),
    }


def results(rank, world):
    rows = torch.arange(N) if world == 1 else torch.arange(N)[:SPLIT] if rank == 0 else torch.arange(N)[SPLIT:]
    return {
        f"{name}/{schedule}": gradients(build(), schedule, rows, rank, world)
        for name, build in OBJECTIVES.items()
        for schedule in build().schedules
    }


if __name__ == "__main__":
    report(results(*start()))
