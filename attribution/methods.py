"""The methods by name, with what each needs, for callbacks and commands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
        settings: what the method's function is called with; a number that is reported needs them.
    """

    title: str
    explain: Callable[[nn.Module, Tensor, Tensor, str], Tensor]
    passes: int
    settings: dict[str, float | str] = field(default_factory=dict)
    needs_layer: bool = False
    signed: bool = False
    whole_weights: bool = False


Settings = dict[str, float | str]


def _at_pixels(
    title: str, function: Callable[..., Tensor], passes: int, settings: Settings | None = None, signed: bool = False
) -> SaliencyMethod:
    options = settings or {}
    return SaliencyMethod(title, lambda m, x, y, _: function(m, x, y, **options), passes, options, signed=signed)


def _at_layer(
    title: str, function: Callable[..., Tensor], settings: Settings | None = None, signed: bool = False
) -> SaliencyMethod:
    options = settings or {}
    return SaliencyMethod(
        title, lambda *given: function(*given, **options), 2, options, needs_layer=True, signed=signed
    )


def _combined(model: nn.Module, images: Tensor, target: Tensor, **options: Any) -> Tensor:
    return combine_layers(norm_grad_layers(model, images, target), **options)


def _meta(model: nn.Module, images: Tensor, target: Tensor, layer: str) -> Tensor:
    return meta_saliency(model, images, target, lambda moved, x, y: norm_grad(moved, x, y, layer), **META)


def _rise(model: nn.Module, images: Tensor, target: Tensor, **options: Any) -> Tensor:
    """RISE less its least value: what all pixels have in common is the mean probability and no evidence."""
    maps = rise(model, images, target, **options)
    return maps - maps.flatten(1).amin(1).view(-1, 1, 1)


NOISE: Settings = {"samples": 16, "noise": 0.15}
META: Any = {"step": 2.5e-3}
METHODS = {
    "input_gradient": _at_pixels("input gradient", input_gradient, 2, {"channels": "max"}),
    "gradient_times_input": _at_pixels("gradient x input", gradient_times_input, 2, {"channels": "sum"}, signed=True),
    "integrated_gradients": _at_pixels(
        "integrated gradients", integrated_gradients, 64, {"baseline": 0.0, "steps": 32, "channels": "sum"}, signed=True
    ),
    "smooth_grad": _at_pixels("SmoothGrad", smooth_grad, 32, NOISE),
    "smooth_grad_squared": _at_pixels("SmoothGrad²", smooth_grad_squared, 32, NOISE),
    "var_grad": _at_pixels("VarGrad", var_grad, 32, NOISE),
    "grad_cam": _at_layer("Grad-CAM", grad_cam),
    "linear_approximation": _at_layer("linear approximation", linear_approximation, signed=True),
    "norm_grad": _at_layer("NormGrad", norm_grad, {"form": "identity"}),
    "norm_grad_selective": _at_layer("selective NormGrad", norm_grad, {"form": "selective"}),
    "norm_grad_combined": _at_pixels("NormGrad, all layers", _combined, 3, {"mean": "geometric", "weights": "uniform"}),
    "meta_norm_grad": SaliencyMethod("meta NormGrad", _meta, 4, META, needs_layer=True, whole_weights=True),
    "rise": _at_pixels("RISE", _rise, 512, {"masks": 512, "cells": 7, "keep": 0.5}),
    "sobol": _at_pixels("Sobol index", sobol, 800, {"cells": 7, "designs": 16}),
}


def saliency_method(name: str, who: str = "saliency") -> SaliencyMethod:
    """Return a method by name.

    Raises:
        RectifyError: there is no such method.
    """
    if name not in METHODS:
        raise RectifyError(f"{who}: methods has no {name!r}.{did_you_mean(name, METHODS)}")
    return METHODS[name]
