"""How much a layer's maps depend on the class they explain."""

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .gradient_hooks import Layers, recorded_maps
from .layers import find_layer, spatial_layers
from .map_numbers import rank_correlation
from .score import chosen_logit, logits_of
from .virtual_identity import Form, norm_grad_parts


def class_sensitivity(
    model: nn.Module, images: Tensor, layers: Layers | None = None, form: Form = "selective"
) -> dict[str, Tensor]:
    """Return by layer the rank correlation (B,) of the maps for the likeliest and the least likely class.

    1 means that the map does not depend on the class; lower is more class-specific (Rebuffi et al. 2020); NaN that
    both maps are all zero. All layers take one forward and two backward passes.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        layers: by default the outermost convolutional stages.
        form: of NormGrad; see `norm_grad`.

    Raises:
        RectifyError: as `norm_grad`, or the model has one class only.
    """
    keep, fold = norm_grad_parts(form)
    chosen = spatial_layers(model, images[:1]) if layers is None else list(layers)
    if not chosen:
        raise RectifyError(f"{type(model).__name__} has no layer with a spatial output (B, c, h, w) to explain.")
    named = dict(find_layer(model, layer) for layer in chosen)
    size = (images.shape[-2], images.shape[-1])
    with (
        frozen_eval(model, input_gradients=True),
        recorded_maps(named, keep, fold, size, "Class sensitivity") as found,
    ):
        logits = logits_of(model, images.detach().clone())
        if logits.shape[1] < 2:
            raise RectifyError(f"class_sensitivity compares two classes, but {type(model).__name__} has one logit.")
        most = found.backward(chosen_logit(logits, logits.detach().argmax(1)), retain_graph=True)
        least = found.backward(chosen_logit(logits, logits.detach().argmin(1)))
    return {name: _correlation(most[name], least[name]) for name in named}


def _correlation(most: Tensor, least: Tensor) -> Tensor:
    found = rank_correlation(most, least).to(torch.float32)
    dead = ~(most.flatten(1).any(1) | least.flatten(1).any(1))  # no map is no evidence that maps ignore the class
    return found.masked_fill(dead, torch.nan)
