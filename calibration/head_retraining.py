"""Re-train the last layer alone on virtual features (CCVR, Luo et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import RectifyError
from ..randomness import keyed_generator
from ._minimise import minimise
from .class_gaussians import ClassGaussians


def retrain_head(
    head: nn.Linear, gaussians: ClassGaussians, each: int = 500, weight_decay: float = 1e-4, seed: int = 0
) -> nn.Linear:
    """Fit the head in place to equally many virtual features a class; return it.

    A class-balanced head for features that stay as they are: after federated or long-tailed training, and after
    unlearning, where a forgotten class may be left out of the Gaussians. Its rows then stay as they were. The problem
    is convex; L-BFGS starts from the head that is there. Ranks with the same Gaussians get the same head.

    Raises:
        RectifyError: the head is no linear layer of the Gaussians' width and classes, or no class has samples.
    """
    if not isinstance(head, nn.Linear) or head.weight.shape != gaussians.total.shape:
        found = tuple(head.weight.shape) if isinstance(head, nn.Linear) else type(head).__name__
        raise RectifyError(f"retrain_head: the head is {found}; give a Linear of {tuple(gaussians.total.shape)}.")
    if not gaussians.count.any():
        raise RectifyError("retrain_head: the Gaussians hold no samples; update them with features first.")
    features, label = gaussians.sample(each, keyed_generator("retrain_head", seed))
    kept = label.unique()
    place = torch.full_like(gaussians.count, -1, dtype=torch.int64)
    place[kept] = torch.arange(len(kept), device=kept.device)
    with torch.inference_mode(False), torch.enable_grad():
        features, target = features.clone(), place[label]
        weight = head.weight.detach().double()[kept].clone()
        bias = torch.zeros(len(kept), dtype=torch.float64, device=weight.device)
        if head.bias is not None:
            bias = head.bias.detach().double()[kept].clone()
        learnt = [weight, bias] if head.bias is not None else [weight]
        minimise(
            learnt,
            lambda: (
                F.cross_entropy(F.linear(features, weight, bias), target) + weight_decay * weight.square().sum() / 2
            ),
        )
    with torch.no_grad():
        head.weight[kept] = weight.to(head.weight)
        if head.bias is not None:
            head.bias[kept] = bias.to(head.bias)
    return head
