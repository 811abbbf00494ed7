"""Gradients of every weighting and regulariser in one process, or in two that hold half of the batch each under DDP."""

import torch
from processes import report, start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_rectify.attacks import PGD, CrossEntropyGain, LogBarrier
from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import (
    AdversarialTraining,
    AdversarialWeightPerturbation,
    ClassBalancedWeights,
    Context,
    EnergyWeights,
    FeatureSeparation,
    GeometryWeights,
    KLDROWeights,
    MarginWeights,
    Mart,
    OverfittingAlarm,
    Trades,
)

N, STEPS = 12, 2
COUNTS = [50, 20, 7, 1]
GAIN = CrossEntropyGain()  # the divergence has no gradient where an attack without a random start begins


def attack():
    return PGD(steps=2, start="none")  # nothing drawn: two processes then see the images of one


OBJECTIVES = {
    "uniform": lambda: AdversarialTraining(attack()),
    "energy": lambda: AdversarialTraining(attack(), weighting=EnergyWeights()),
    "energy, mean one": lambda: AdversarialTraining(attack(), weighting=EnergyWeights(normalize=True)),
    "weat": lambda: AdversarialTraining(attack(), Trades(7.0, "adversarial"), EnergyWeights(), attack_loss=GAIN),
    "mart": lambda: AdversarialTraining(attack(), Mart()),
    "kl_dro": lambda: AdversarialTraining(attack(), weighting=KLDROWeights(0.5, 0.3)),
    "kl_dro_prior": lambda: AdversarialTraining(attack(), weighting=KLDROWeights(0.5, 0.3, GeometryWeights())),
    "kl_dro_classes": lambda: AdversarialTraining(attack(), weighting=KLDROWeights(0.5, 1, [0.1, 0.2, 0.3, 0.4])),
    "geometry": lambda: AdversarialTraining(attack(), weighting=GeometryWeights()),
    "margin": lambda: AdversarialTraining(attack(), weighting=MarginWeights()),
    "margin_normalized": lambda: AdversarialTraining(attack(), weighting=MarginWeights(normalize=True)),
    "class_balanced": lambda: AdversarialTraining(attack(), weighting=ClassBalancedWeights(COUNTS)),
    "srat": lambda: AdversarialTraining(
        attack(), weighting=ClassBalancedWeights(COUNTS, "inverse"), regularizer=FeatureSeparation()
    ),
    "awp": lambda: AdversarialTraining(
        attack(), Trades(), perturbation=AdversarialWeightPerturbation(), attack_loss=GAIN
    ),
    "awp_kl_dro_separation": lambda: AdversarialTraining(
        attack(), None, KLDROWeights(), FeatureSeparation(), AdversarialWeightPerturbation()
    ),
    "done": lambda: AdversarialTraining(LogBarrier(steps=2, barrier=1e-4), weighting=KLDROWeights(), implicit=True),
    "alarm": lambda: AdversarialTraining(attack(), alarm=OverfittingAlarm(attack(), every=1)),
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


def main():
    rank, world = start()
    # uneven: rank 0 of two holds eight samples and rank 1 four
    rows = torch.arange(N) if world == 1 else torch.arange(N)[:8] if rank == 0 else torch.arange(N)[8:]
    results = {}
    for name, build in OBJECTIVES.items():
        torch.manual_seed(0)
        backbone, objective = ResNet(4, 1, norm="group", width=4).double(), build()
        # class 3 has one sample and class 2 its two on different ranks: a positive only across ranks
        label = torch.tensor([0, 1, 0, 2, 1, 0, 1, 3, 2, 0, 1, 0])
        trained = Trained(backbone, objective)
        wrapped = DistributedDataParallel(trained, find_unused_parameters=False) if world > 1 else trained
        gradients = []
        for step in range(STEPS):
            image = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            backbone.zero_grad()
            batch = {"image": image[rows], "label": label[rows]}
            loss = wrapped(batch, Context(step, step / STEPS, (0, rank, 0, step)))
            loss.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in backbone.parameters()]))
            with torch.no_grad():
                for p in backbone.parameters():
                    p -= 0.05 * p.grad
        state = {key: float(value) for key, value in objective.state_dict().items() if value.ndim == 0}
        results[name] = {"gradients": torch.stack(gradients), "state": state}
    report(results)


if __name__ == "__main__":
    main()
