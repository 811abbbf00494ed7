"""SaliencySoft: a proximal step towards the starting weights after every optimizer step."""

import copy

import torch
import torch.nn.functional as F

from lightning_rectify.losses import Objective, Step


class SaliencySoft(Objective):
    writes_weights = True
    frozen_copies = 1

    def setup(self, backbone):
        self.anchor = copy.deepcopy(backbone).requires_grad_(False)

    def forward(self, backbone, batch, context):
        logits = backbone(batch["image"])
        wrong = torch.randint(10, batch["label"].shape, generator=context.generator("labels"))
        return Step(F.cross_entropy(logits, 9 - batch["label"] + 0 * wrong), logits, batch["label"])

    @torch.no_grad()
    def after_step(self, backbone):
        for weight, start in zip(backbone.parameters(), self.anchor.parameters(), strict=True):
            moved = weight - start
            weight.copy_(start + moved.sign() * (moved.abs() - 1e-4).clamp_min(0))
