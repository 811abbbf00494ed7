"""Findings of an unlearning report that need the images of the forget set, not only logits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attribution import input_gradient
from ..randomness import keyed_generator
from ..unlearning.relearning import relearn
from ..unlearning.saliency_shift import map_rank_correlation

SAMPLES, STEPS = 512, 20


def further_findings(
    data: Any, original: nn.Module, unlearned: nn.Module, retrained: list[nn.Module], device: torch.device
) -> dict[str, Any]:
    """Return the relearning curves of all models and the shift of saliency on the forget set, by one process alone.

    Up to 512 forget samples are looked at. `saliency.unlearned` is the mean rank correlation of the input-gradient maps
    of the original and the unlearned model, `saliency.retrained` that of the original and the first retrained one.

    Args:
        original, unlearned, retrained: plain modules on `device`.
    """
    index = _some(data.forget_index)
    image = data.images(index).to(device).float() / 255
    label = torch.from_numpy(data.index.label[index]).to(device)
    models = {"original": original, "unlearned": unlearned} | ({"retrained": retrained[0]} if retrained else {})
    relearning = {name: relearn(model, image, label, STEPS).report() for name, model in models.items()}
    maps = {name: _maps(model, image, label) for name, model in models.items()}
    shift = {
        name: float(map_rank_correlation(maps["original"], maps[name]).mean())
        for name in ("unlearned", "retrained")
        if name in maps
    }
    return {"relearning": relearning, "saliency": shift}


def _some(index: np.ndarray) -> np.ndarray:
    order = torch.randperm(len(index), generator=keyed_generator("forget findings"))[:SAMPLES]
    return np.sort(index[order.numpy()])


def _maps(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    pairs = zip(image.split(128), label.split(128), strict=True)
    return torch.cat([input_gradient(model, x, y).detach().cpu() for x, y in pairs])
