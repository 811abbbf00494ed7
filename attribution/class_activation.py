"""Class activation maps weighted by gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .layers import find_layer, leaf_output
from .score import target_logit


def grad_cam(model: nn.Module, images: Tensor, target: Tensor, layer: str | nn.Module) -> Tensor:
    """Return Grad-CAM maps (B, H, W), not negative, at the size of the images (Selvaraju et al. 2017).

    ReLU(Σ_c mean_u(g_cu)·a_cu) for the layer's output a and its gradient g, upsampled bilinearly. The model runs in
    eval mode and is left as it was found. A layer that runs several times is explained at its last call.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        target: (B,) int64 classes to explain.
        layer: a module of the model or its name, with output (B, c, h, w).

    Raises:
        RectifyError: unknown layer, a layer without spatial output or without influence on the logits, or images,
            targets or outputs that do not fit.
    """
    name, module = find_layer(model, layer)
    with frozen_eval(model, input_gradients=True), leaf_output(module, name) as leaves:
        score = target_logit(model, images.detach().clone(), target)
        if not leaves:
            raise RectifyError(f"layer: {name} does not run in the forward pass; choose one that does.")
        activation = leaves[-1]
        if activation.ndim != 4:
            raise RectifyError(
                f"layer: Grad-CAM needs an output (B, c, h, w), but {name} gives {tuple(activation.shape)}; "
                "choose a convolutional layer."
            )
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, activation, allow_unused=True)
        if gradient is None:
            raise RectifyError(f"layer: the logits do not depend on the output of {name}; choose another layer.")
        weight = gradient.mean((2, 3), keepdim=True)
        maps = F.relu((weight * activation.detach()).sum(1, keepdim=True))
        return F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
