"""KL-DRO: weights over the global batch from a moving average that must survive a restart."""

import torch
import torch.nn.functional as F

from lightning_rectify.collectives import sum_over_ranks, world_size
from lightning_rectify.losses import Objective, Step


class KLDRO(Objective):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))

    def forward(self, backbone, batch, context):
        logits = backbone(batch["image"])
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        heat = losses.detach().double().exp()
        count = sum_over_ranks(torch.tensor(float(len(heat))))
        mean = sum_over_ranks(heat.sum()) / count
        self.average = mean if context.step == 0 else 0.5 * self.average + 0.5 * mean
        weights = heat / self.average
        loss = (weights * losses).sum() * world_size() / count
        return Step(loss, logits, batch["label"], {"average": self.average})
