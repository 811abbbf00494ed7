"""SCRUB: a frozen teacher, batches of two parts, and steps that alternate between them."""

import copy

import torch.nn.functional as F

from lightning_rectify.losses import Objective, Step


class Scrub(Objective):
    needs_retain = True
    frozen_copies = 1

    def setup(self, backbone):
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)

    def forward(self, backbone, batch, context):
        forgetting = context.step % 2 == 0
        part = batch["forget" if forgetting else "retain"]
        logits, taught = backbone(part["image"]), self.teacher(part["image"])
        distance = F.kl_div(logits.log_softmax(1), taught.softmax(1), reduction="batchmean")
        loss = -distance if forgetting else distance + F.cross_entropy(logits, part["label"])
        return Step(loss, logits, part["label"], {"distance": distance.detach()})
