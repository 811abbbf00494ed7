"""Objectives that strain a strategy in ways those of configs/objective/ need not: each is a cell of the table."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from lightning_rectify.attacks import PGD
from lightning_rectify.collectives import sum_over_ranks, world_size
from lightning_rectify.losses.objective import Objective, Step


class AttackedTeacher(Objective):
    """Two PGD steps by input gradients, clean logits once more, and an averaged teacher moved after each step."""

    frozen_copies = 1

    def setup(self, backbone):
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)

    def forward(self, backbone, batch, context):
        image, label = batch["image"], batch["label"]
        noise = torch.rand(image.shape, generator=context.generator("attack", image.device), device=image.device)
        x = image + 0.01 * noise
        for _ in range(2):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(backbone(x), label), x)
            x = x + 0.01 * gradient.sign()
        logits = backbone(x.detach())
        with torch.no_grad():
            taught = self.teacher(image).softmax(1)
        loss = F.cross_entropy(logits, label) + F.kl_div(backbone(image).log_softmax(1), taught, reduction="batchmean")
        return Step(loss, logits, label)

    @torch.no_grad()
    def after_step(self, backbone):
        for mine, theirs in zip(self.teacher.parameters(), backbone.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 0.5)


class FrozenTeacher(AttackedTeacher):
    """The same with a teacher that stays."""

    after_step = Objective.after_step  # nothing


class Proxies(Objective):
    """Parameters of its own, on features, without the head; then the head on those features."""

    own_parameters = True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.proxies = nn.Parameter(torch.randn(4, 32, generator=generator))

    def forward(self, backbone, batch, context):
        features = backbone.features(batch["image"])
        logits = backbone.head(features)
        near = F.normalize(features, dim=1) @ F.normalize(self.proxies, dim=1).T
        loss = F.cross_entropy(4 * near, batch["label"]) + F.cross_entropy(logits, batch["label"])
        return Step(loss, logits, batch["label"])


class GlobalWeights(Objective):
    """Sample weights normalised over all ranks, moved by a buffer that grows with the global loss."""

    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, backbone, batch, context):
        logits = backbone(batch["image"])
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        weight = (losses.detach() / self.temperature).exp()
        share = sum_over_ranks(torch.stack([weight.sum(), losses.detach().sum()]))
        self.temperature += 0.01 * share[1]
        return Step((weight * losses).sum() * world_size() / share[0], logits, batch["label"])


class GradientPenalty(Objective):
    """Differentiates through an input gradient."""

    double_backward = True

    def forward(self, backbone, batch, context):
        x = batch["image"].clone().requires_grad_()
        logits = backbone(x)
        loss = F.cross_entropy(logits, batch["label"])
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return Step(loss + gradient.square().sum(), logits, batch["label"])


class Perturbed(Objective):
    """Ascends in weight space before the loss and takes it back after the step, in place."""

    writes_weights = True

    def forward(self, backbone, batch, context):
        weights = [p for p in backbone.parameters() if p.requires_grad]
        with torch.no_grad():
            for p in weights:
                p.mul_(1.01)
        logits = backbone(batch["image"])
        return Step(F.cross_entropy(logits, batch["label"]), logits, batch["label"])

    @torch.no_grad()
    def after_step(self, backbone):
        for p in backbone.parameters():
            p.div_(1.01)


class PGDTraining(Objective):
    """Two steps of the project's own attack, the clean images once more, and training on both."""

    def forward(self, backbone, batch, context):
        image, label = batch["image"], batch["label"]
        generator = context.generator("attack", image.device)
        attacked = PGD(eps=0.02, step_size=0.01, steps=2)(backbone, image, label, generator=generator, clean=True)
        logits = backbone(attacked.image)
        loss = F.cross_entropy(logits, label) + F.cross_entropy(backbone(image), label)
        return Step(loss, logits, label)


PROBES = {
    probe.__name__: probe
    for probe in (AttackedTeacher, FrozenTeacher, Proxies, GlobalWeights, GradientPenalty, Perturbed, PGDTraining)
}
