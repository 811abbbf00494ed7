"""Two ranks under DDP against one process that replays both ranks' draws, for every mixing objective."""

import torch
from processes import report, start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import (
    Alternate,
    Context,
    CutMix,
    DirichletMixup,
    EmpiricalRisk,
    FMix,
    ManifoldMixup,
    Mixup,
)


class Shifted(EmpiricalRisk):
    """Has a parameter of its own, as proxies or class centres are."""

    own_parameters = True

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4).double())

    def forward(self, backbone, batch, context):
        return super().forward(lambda image: backbone(image) + self.shift, batch, context)


OBJECTIVES = {
    "mixup": lambda: Mixup(0.5, label="independent"),
    "cutmix": lambda: CutMix(),
    "fmix": lambda: FMix(),
    "fmix_soft_official": lambda: FMix(max_soft=0.2, spectrum="official", reformulate=True),
    "manifold_mixup": lambda: ManifoldMixup(["input", "layer1", "layer2"]),
    "dirichlet_mixup": lambda: DirichletMixup(3),
    "alternate": lambda: Alternate([Mixup(), FMix()]),
    "alternate_own_parameters": lambda: Alternate([Shifted(), Mixup()]),
    "alternate_weighted": lambda: Alternate([Mixup(), EmpiricalRisk(), CutMix()], [1, 2, 3], "weighted"),
}


class Trained(nn.Module):
    """What Lightning hands to DDP: a forward that runs the objective on the plain backbone."""

    def __init__(self, backbone: nn.Module, objective: nn.Module):
        super().__init__()
        self.backbone, self.objective = backbone, objective

    def forward(self, batch, context):
        return self.objective(self.backbone, batch, context).loss


def context(rank: int, step: int) -> Context:
    return Context(step, step / 4, (7, rank, 0, step))


def gradient(trained: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trained.parameters()])


def main() -> None:
    rank, world = start()
    torch.manual_seed(0)
    backbone = ResNet(4, 1, norm="group", width=8).double()
    image, label = torch.rand(world, 6, 1, 8, 8).double(), torch.randint(4, (world, 6))
    results = {}
    for name, build in OBJECTIVES.items():
        objective = build()
        objective.setup(backbone)
        trained = DistributedDataParallel(Trained(backbone, objective), find_unused_parameters=False)
        worst, chosen = 0.0, []
        for step in range(3):
            trained.zero_grad()
            trained({"image": image[rank], "label": label[rank]}, context(rank, step)).backward()
            averaged = gradient(trained).clone()
            trained.zero_grad()
            losses = [
                objective(backbone, {"image": image[r], "label": label[r]}, context(r, step)).loss for r in range(world)
            ]
            (sum(losses) / world).backward()
            worst = max(worst, float((averaged - gradient(trained)).abs().max() / averaged.abs().max()))
            if isinstance(objective, Alternate):
                chosen.append(objective.choose(context(rank, step)))
        results[name] = {"error": worst, "chosen": chosen}
    # the same images on both ranks: what differs is the draw
    for name in ("mixup", "cutmix", "fmix", "dirichlet_mixup"):
        plan = OBJECTIVES[name]().plan(image[0], context(rank, 0))
        results[name]["draw"] = plan.apply(image[0]).flatten()[:64]
    report(results)


if __name__ == "__main__":
    main()
