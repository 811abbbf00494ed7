"""What a study measures of each method, and of the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..attribution.class_dependence import class_sensitivity
from ..attribution.layers import spatial_layers
from ..attribution.leakage import label_leakage
from ..attribution.linear_part import linear_interpreter
from ..attribution.map_numbers import map_statistics
from ..attribution.methods import METHODS
from ..attribution.pixel_ranking import PixelCurves, insertion_deletion, masking_contrast, random_maps
from ..callbacks.panel import Panel
from ..frozen import frozen_eval
from .explained_images import chunks

CHEAP = 64  # passes a map; and the images that a dearer method is measured on
RANDOM = "random order"


def measure_methods(
    model: nn.Module, panel: Panel, methods: Sequence[str], layer: str, device: Any
) -> dict[str, dict[str, float]]:
    """Return numbers by method, then those of a random order of the same images.

    Methods of many passes are measured on `CHEAP` images; a second random order of just those stands beside them.
    """
    few = panel.spread(CHEAP)
    dear = {name for name in methods if METHODS[name].passes > CHEAP}
    found = {name: _measures(model, few if name in dear else panel, name, layer, device) for name in methods}
    if len(dear) < len(methods) or len(few) == len(panel):
        found[RANDOM] = _measures(model, panel, None, layer, device)
    if dear and len(few) < len(panel):
        found[f"{RANDOM}, {len(few)} images"] = _measures(model, few, None, layer, device)
    return found


def _measures(model: nn.Module, panel: Panel, method: str | None, layer: str, device: Any) -> dict[str, float]:
    """Means over the panel; without a method those of a random order."""
    curves: list[PixelCurves] = []
    sums: list[dict[str, Tensor]] = []
    for _, x, label in chunks(panel, device):
        maps = random_maps(x) if method is None else METHODS[method].explain(model, x, label, layer).float()
        leak = label_leakage(model, x, label, maps)
        with frozen_eval(model):
            runner_up = model(x).scatter(1, label[:, None], -torch.inf).argmax(1)
        numbers = {**map_statistics(maps), "class_free_value": leak.class_free, "leakage": leak.excess}
        numbers["contrast_to_runner_up"] = masking_contrast(model, x, maps, label[:, None], runner_up[:, None])
        sums.append({name: value.double().cpu() for name, value in numbers.items()})
        curves.append(insertion_deletion(model, x, label, maps))
    joined = PixelCurves(torch.cat([c.insertion for c in curves], 1), torch.cat([c.deletion for c in curves], 1))
    found: dict[str, float] = {"images": len(panel)}
    found |= {name: float(torch.cat([part[name] for part in sums]).mean()) for name in sums[0]}
    found |= {"insertion": joined.normalised_insertion, "deletion": joined.normalised_deletion}
    return found | {"insertion_area": joined.insertion_area, "deletion_area": joined.deletion_area}


def measure_model(model: nn.Module, panel: Panel, device: Any) -> dict[str, Any]:
    """Return the class sensitivity by layer, and the share of the biases in the logits."""
    layers = spatial_layers(model, panel.images[:1].to(device))
    sensitivity: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    bias: list[Tensor] = []
    for _, x, _ in chunks(panel, device):
        for layer, values in class_sensitivity(model, x, layers).items() if layers else ():
            sensitivity[layer].append(values.cpu())
        bias.append(linear_interpreter(model, x).bias_share.cpu())
    return {
        "class_sensitivity": {layer: float(torch.cat(values).nanmean()) for layer, values in sensitivity.items()},
        "bias_share": float(torch.cat(bias).mean()),
    }
