"""TRADES with adversarial weight perturbation: an inner attack, and a loss at perturbed weights."""

import torch
import torch.nn.functional as F
from torch.func import functional_call

from lightning_rectify.collectives import sum_over_ranks, world_size
from lightning_rectify.losses import Objective, Step


def divergence(clean, adversarial):
    return F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="batchmean")


class TradesAWP(Objective):
    def forward(self, backbone, batch, context):
        image, weights = batch["image"], dict(backbone.named_parameters())
        with torch.no_grad():
            clean = backbone(image)
        moved = (image + 1e-3 * torch.sign(image - 0.5)).requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(clean, backbone(moved)) * len(image), moved)
        moved = (image + 0.03 * gradient.sign()).clamp(0, 1).detach()
        ascent = torch.autograd.grad(divergence(clean, backbone(moved)), list(weights.values()))
        shifted = {}
        for (name, weight), gradient in zip(weights.items(), ascent, strict=True):
            step = sum_over_ranks(gradient) / world_size()  # the perturbation is a global statistic
            shifted[name] = weight + 0.01 * step * weight.detach().norm() / (step.norm() + 1e-12)
        # d(weight + shift)/d(weight) = 1: the gradient at the perturbed point reaches the weights, nothing is restored
        logits = functional_call(backbone, shifted, image)
        robust = divergence(logits, functional_call(backbone, shifted, moved))
        loss = F.cross_entropy(logits, batch["label"]) + 6 * robust
        return Step(loss, logits, batch["label"], {"robust": robust.detach()})
