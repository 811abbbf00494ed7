"""One map out of those of several layers."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import RectifyError, did_you_mean

Mean = Literal["geometric", "arithmetic"]
Weights = Literal["uniform", "linear"] | Sequence[float]


def combine_layers(
    maps: Mapping[str, Tensor] | Sequence[Tensor], mean: Mean = "geometric", weights: Weights = "uniform"
) -> Tensor:
    """Return the weighted mean (B, H, W) of layers' maps, each first brought to [0, 1] per image (Rebuffi et al. 2020).

    A geometric mean keeps what all layers agree on; where one layer with a weight is 0 it is 0.

    Args:
        maps: one (B, H, W) a layer, from the first layer to the last.
        mean: `geometric` or `arithmetic`.
        weights: `uniform`, `linear` (1, 2, … so that late layers count more), or one each; scaled to sum 1.

    Raises:
        RectifyError: no maps, maps of different shapes, or weights that do not fit.
    """
    layers = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    if not layers or len({layer.shape for layer in layers}) != 1:
        raise RectifyError(
            f"combine_layers: maps have the shapes {[tuple(layer.shape) for layer in layers]}; give some, of one shape."
        )
    known = {"uniform": [1.0] * len(layers), "linear": [float(place + 1) for place in range(len(layers))]}
    if isinstance(weights, str):
        if weights not in known:
            raise RectifyError(f"combine_layers: weights has no {weights!r}.{did_you_mean(weights, known)}")
        weights = known[weights]
    if len(weights) != len(layers) or min(weights) < 0 or sum(weights) <= 0:
        raise RectifyError(
            f"combine_layers: weights {list(weights)} for {len(layers)} layers; give one each, 0 or more, not all 0."
        )
    stacked = torch.stack([_unit(layer) for layer in layers])
    share = stacked.new_tensor(list(weights)).view(-1, *[1] * layers[0].ndim) / sum(weights)
    if mean == "arithmetic":
        return (share * stacked).sum(0)
    if mean != "geometric":
        raise RectifyError(f"combine_layers: mean is {mean!r}; choose geometric or arithmetic.")
    logs = torch.where(share > 0, share * stacked.log(), torch.zeros_like(stacked))  # 0·log 0 counts as 0
    return logs.sum(0).exp()


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.flatten(1).amin(1).view(-1, 1, 1), maps.flatten(1).amax(1).view(-1, 1, 1)
    return (maps - low) / (high - low).clamp_min(1e-12)
