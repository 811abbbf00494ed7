"""The methods by name, with what each needs, for callbacks and commands."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import RectifyError, did_you_mean
from .class_activation import grad_cam, linear_approximation
from .input_gradients import gradient_times_input, input_gradient
from .layer_combination import combine_layers
from .moved_weights import meta_saliency
from .path_gradients import integrated_gradients, smooth_grad, smooth_grad_squared, var_grad
from .randomised_masks import rise
from .sobol_indices import sobol
from .virtual_identity import norm_grad, norm_grad_layers


@dataclass(frozen=True)
class SaliencyMethod:
    """A method that gives one map an image, whatever batch the image stands in.

    Attributes:
        title: its name in pictures.
        explain: (model, images, target, layer) -> maps (B, H, W).
        needs_layer: whether it reads the layer.
        signed: whether maps have negative values.
        whole_weights: whether it needs weights that no strategy has split.
        passes: forward and backward passes of one image, roughly.
    """

    title: str
    explain: Callable[[nn.Module, Tensor, Tensor, str], Tensor]
    passes: int
    needs_layer: bool = False
    signed: bool = False
    whole_weights: bool = False


def _combined(model: nn.Module, images: Tensor, target: Tensor, layer: str) -> Tensor:
    return combine_layers(norm_grad_layers(model, images, target))


def _meta(model: nn.Module, images: Tensor, target: Tensor, layer: str) -> Tensor:
    return meta_saliency(model, images, target, lambda moved, x, y: norm_grad(moved, x, y, layer))


def _rise(model: nn.Module, images: Tensor, target: Tensor, layer: str) -> Tensor:
    """RISE less its least value: what all pixels have in common is the mean probability and no evidence."""
    maps = rise(model, images, target, 512)
    return maps - maps.flatten(1).amin(1).view(-1, 1, 1)


METHODS = {
    "input_gradient": SaliencyMethod("input gradient", lambda m, x, y, _: input_gradient(m, x, y), 2),
    "gradient_times_input": SaliencyMethod(
        "gradient x input", lambda m, x, y, _: gradient_times_input(m, x, y), 2, signed=True
    ),
    "integrated_gradients": SaliencyMethod(
        "integrated gradients", lambda m, x, y, _: integrated_gradients(m, x, y), 64, signed=True
    ),
    "smooth_grad": SaliencyMethod("SmoothGrad", lambda m, x, y, _: smooth_grad(m, x, y), 32),
    "smooth_grad_squared": SaliencyMethod("SmoothGrad²", lambda m, x, y, _: smooth_grad_squared(m, x, y), 32),
    "var_grad": SaliencyMethod("VarGrad", lambda m, x, y, _: var_grad(m, x, y), 32),
    "grad_cam": SaliencyMethod("Grad-CAM", grad_cam, 2, needs_layer=True),
    "linear_approximation": SaliencyMethod(
        "linear approximation", linear_approximation, 2, needs_layer=True, signed=True
    ),
    "norm_grad": SaliencyMethod("NormGrad", norm_grad, 2, needs_layer=True),
    "norm_grad_selective": SaliencyMethod(
        "selective NormGrad", lambda m, x, y, layer: norm_grad(m, x, y, layer, "selective"), 2, needs_layer=True
    ),
    "norm_grad_combined": SaliencyMethod("NormGrad, all layers", _combined, 3),
    "meta_norm_grad": SaliencyMethod("meta NormGrad", _meta, 4, needs_layer=True, whole_weights=True),
    "rise": SaliencyMethod("RISE", _rise, 512),
    "sobol": SaliencyMethod("Sobol index", lambda m, x, y, _: sobol(m, x, y, 7, 16), 800),
}


def saliency_method(name: str, who: str = "saliency") -> SaliencyMethod:
    """Return a method by name.

    Raises:
        RectifyError: there is no such method.
    """
    if name not in METHODS:
        raise RectifyError(f"{who}: methods has no {name!r}.{did_you_mean(name, METHODS)}")
    return METHODS[name]
