"""Maps of one layer from its activations and their gradients: Grad-CAM and the linear approximation."""

import torch.nn.functional as F
from torch import Tensor, nn

from .gradient_hooks import layer_maps

CANCELLED = 1e-3  # transformers leave 1e-6 of the summands, convolutional networks 0.06 and more


def grad_cam(model: nn.Module, images: Tensor, target: Tensor, layer: str | nn.Module) -> Tensor:
    """Return Grad-CAM maps (B, H, W), not negative, at the size of the images (Selvaraju et al. 2017).

    ReLU(Σ_c mean_u(g_cu)·a_cu) for the layer's output a and its gradient g, upsampled bilinearly. The model runs in
    eval mode and is left as it was found. A layer that runs several times is explained at its last call.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        target: (B,) int64 classes to explain.
        layer: a module of the model or its name, with output (B, c, h, w), or patch tokens (B, N, D).

    Raises:
        RectifyError: unknown layer, a layer without spatial output or without influence on the logits, or images,
            targets or outputs that do not fit.
    """

    def fold(activation: Tensor, gradient: Tensor) -> Tensor:
        return F.relu((gradient.mean((2, 3), keepdim=True) * activation).sum(1))

    (maps,) = layer_maps(model, images, target, [layer], _output, fold, "Grad-CAM").values()
    return maps


def linear_approximation(model: nn.Module, images: Tensor, target: Tensor, layer: str | nn.Module) -> Tensor:
    """Return signed maps (B, H, W) of Σ_c a_cu·g_cu, what the logit would lose to first order without location u.

    A map in which every sum cancels to rounding is 0. It is so where a layer norm alone reads the location, as in a
    vision transformer the patches after the block before the last: their length has no influence on the logits.

    The arguments and errors are those of `grad_cam`.
    """

    def fold(activation: Tensor, gradient: Tensor) -> Tensor:
        products = activation * gradient
        sums, sizes = products.sum(1), products.abs().sum(1)
        cancelled = sums.abs().flatten(1).amax(1) <= CANCELLED * sizes.flatten(1).amax(1)
        return sums.masked_fill(cancelled.view(-1, 1, 1), 0)

    (maps,) = layer_maps(model, images, target, [layer], _output, fold, "The linear approximation").values()
    return maps


def _output(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    return output.clone()  # an activation in place may overwrite it
