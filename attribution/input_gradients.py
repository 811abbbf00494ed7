"""Saliency by the gradient of the label's logit with respect to the image."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..frozen import frozen_eval
from .score import target_logit

Channels = Literal["max", "sum", "keep"]


def input_gradient(model: nn.Module, images: Tensor, target: Tensor, channels: Channels = "max") -> Tensor:
    """Return the gradient of the target's logit with respect to the image (Simonyan et al. 2014).

    The model runs in eval mode, so that images do not influence each other, and is left as it was found.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        target: (B,) int64 classes to explain.
        channels: `max` is max_c |dy/dx|, (B, H, W), not negative; `sum` the signed sum over channels, (B, H, W); `keep`
            the raw gradient, (B, C, H, W).

    Raises:
        RectifyError: the images are not float (B, C, H, W), the model's output is not logits, or a target is outside.
    """
    with frozen_eval(model, input_gradients=True):
        leaf = images.detach().clone().requires_grad_(images.is_floating_point())
        (gradient,) = torch.autograd.grad(target_logit(model, leaf, target), leaf)
    if channels == "keep":
        return gradient
    return gradient.abs().amax(1) if channels == "max" else gradient.sum(1)
