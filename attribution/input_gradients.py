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
    return pooled(_gradient(model, images, target), channels)


def gradient_times_input(model: nn.Module, images: Tensor, target: Tensor, channels: Channels = "sum") -> Tensor:
    """Return x·dy/dx, signed, summed over channels to (B, H, W) (Shrikumar et al. 2016); see `input_gradient`."""
    return pooled(images.detach() * _gradient(model, images, target), channels)


def pooled(values: Tensor, channels: Channels) -> Tensor:
    """Fold the channels of (B, C, H, W): their largest magnitude, their sum, or not at all."""
    if channels == "keep":
        return values
    return values.abs().amax(1) if channels == "max" else values.sum(1)


def _gradient(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with frozen_eval(model, input_gradients=True):
        leaf = images.detach().clone().requires_grad_(images.is_floating_point())
        (gradient,) = torch.autograd.grad(target_logit(model, leaf, target), leaf)
    return gradient
