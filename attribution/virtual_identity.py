"""NormGrad: how much each location would contribute to the weight gradient of a convolution."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RectifyError, did_you_mean
from .gradient_hooks import Fold, Keep, Layers, layer_maps
from .layers import spatial_layers

Form = Literal["identity", "identity3", "conv", "selective"]


def norm_grad(
    model: nn.Module, images: Tensor, target: Tensor, layer: str | nn.Module, form: Form = "identity"
) -> Tensor:
    """Return NormGrad maps (B, H, W), not negative, at the size of the images (Rebuffi et al. 2020).

    The norm of a location's share of the weight gradient of a convolution at the layer, for a_u and g_u the channels of
    the layer's output and of its gradient at location u:

    - `identity`: a virtual 1x1 convolution that passes everything, ‖a_u‖·‖g_u‖;
    - `identity3`: a virtual 3x3 one, ‖the 3x3 patch of a around u‖·‖g_u‖;
    - `conv`: the layer's own convolution, ‖the patch of its input‖·‖g_u‖, by groups;
    - `selective`: only what speaks for the class, the norm over channels of max(0, a_u·g_u).

    The other arguments and errors are those of `grad_cam`.
    """
    (maps,) = norm_grad_layers(model, images, target, [layer], form).values()
    return maps


def norm_grad_layers(
    model: nn.Module, images: Tensor, target: Tensor, layers: Layers | None = None, form: Form = "identity"
) -> dict[str, Tensor]:
    """Return NormGrad maps by layer name, of all layers in one forward and one backward pass.

    Args:
        layers: by default the outermost convolutional stages.

    Raises:
        RectifyError: as `norm_grad`, or the model has no layer with a spatial output.
    """
    keep, fold = norm_grad_parts(form)
    layers = spatial_layers(model, images[:1]) if layers is None else list(layers)
    if not layers:
        raise RectifyError(f"{type(model).__name__} has no layer with a spatial output (B, c, h, w) to explain.")
    return layer_maps(model, images, target, layers, keep, fold, "NormGrad")


def norm_grad_parts(form: Form) -> tuple[Keep, Fold]:
    """What a form keeps of the forward pass, and how it becomes a map with the gradient."""
    parts: dict[str, tuple[Keep, Fold]] = {
        "identity": (lambda module, inputs, output: _norm(output), lambda a, g: a * _norm(g)),
        "identity3": (_patch3, lambda a, g: a * _norm(g)),
        "conv": (_own_patch, _by_group),
        "selective": (
            lambda module, inputs, output: output.clone(),
            lambda a, g: _norm((a * g).clamp_min_(0)),
        ),
    }
    if form not in parts:
        raise RectifyError(f"norm_grad: form has no {form!r}.{did_you_mean(form, parts)}")
    return parts[form]


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dim=1)


def _patch3(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    squares = output.square().sum(1, keepdim=True)
    return F.conv2d(squares, torch.ones_like(squares[:1, :, :1, :1]).expand(1, 1, 3, 3), padding=1).squeeze(1).sqrt()


def _own_patch(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    """Squared norms (B, groups, h, w) of the patches the layer's convolution saw: a sum of squares over its window."""
    if not isinstance(module, nn.Conv2d):
        raise RectifyError(f"norm_grad: form conv needs a Conv2d, the layer is a {type(module).__name__}.")
    if module.padding_mode == "zeros":
        padded = F.pad(inputs, module._reversed_padding_repeated_twice)
    else:
        padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    squares = padded.square().unflatten(1, (module.groups, -1)).sum(2)
    window = squares.new_ones(module.groups, 1, *module.kernel_size)
    return F.conv2d(squares, window, None, module.stride, 0, module.dilation, module.groups)


def _by_group(squares: Tensor, gradient: Tensor) -> Tensor:
    return (squares * gradient.unflatten(1, (squares.shape[1], -1)).square().sum(2)).sum(1).sqrt()
