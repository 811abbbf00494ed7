"""Findings of an unlearning report that need images or features, not only the logits of whole splits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attribution import input_gradient, rank_correlation
from ..frozen import frozen_eval
from ..losses.unlearning.bad_teacher import reinitialized
from ..randomness import fold, global_seed, keyed_generator
from ..unlearning.distances import zero_retrain_forgetting
from ..unlearning.linear_probe import probe_accuracy
from ..unlearning.outputs import forgotten_classes
from ..unlearning.relearning import relearn

SAMPLES, STEPS, FITTED = 512, 20, 2000


def further_findings(
    data: Any, original: nn.Module, unlearned: nn.Module, retrained: list[nn.Module], device: torch.device
) -> dict[str, Any]:
    """Return what the models do on the forget set when looked at closely, by one process alone.

    - `relearning`: the curve of each model;
    - `saliency`: mean rank correlation of the input-gradient maps of the original with those of the `unlearned` and of
      the first `retrained` model;
    - `ZRF` of each model, against the original's network with weights drawn anew;
    - `probe`, if classes are forgotten whole and the backbone has features: per cent of the test samples of those
      classes that a linear probe on each model's features gets right.

    Up to 512 forget samples are looked at; the probe is fitted on up to 2,000 training samples, forgotten or not.

    Args:
        original, unlearned, retrained: plain modules on `device`.
    """
    index = _some(data.forget_index, SAMPLES)
    image, label = _samples(data, index, device)
    models = {"original": original, "unlearned": unlearned} | ({"retrained": retrained[0]} if retrained else {})
    relearning = {name: relearn(model, image, label, STEPS).report() for name, model in models.items()}
    maps = {name: _maps(model, image, label) for name, model in models.items()}
    shift = {
        name: float(rank_correlation(maps["original"], maps[name]).mean())
        for name in ("unlearned", "retrained")
        if name in maps
    }
    found: dict[str, Any] = {"relearning": relearning, "saliency": shift}
    untrained = reinitialized(original, fold(global_seed(), "untrained"))
    unknowing = _of_images(untrained, untrained, image)
    answers = {name: _of_images(model, model, image) for name, model in models.items()}
    found["ZRF"] = {name: zero_retrain_forgetting(logits, unknowing) for name, logits in answers.items()}
    gone = forgotten_classes(*(torch.from_numpy(data.index.label[of]) for of in (data.forget_index, data.retain_index)))
    measured = data.index.test[np.isin(data.index.label[data.index.test], gone)]
    if len(measured) and all(hasattr(model, "features") for model in models.values()):
        fitted = _samples(data, _some(np.concatenate([data.forget_index, data.retain_index]), FITTED), device)
        asked = _samples(data, _some(measured, FITTED), device)
        found["probe"] = {name: _probe(model, fitted, asked) for name, model in models.items()}
    return found


def _probe(model: Any, fitted: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]) -> float:
    of_fitted, of_asked = (_of_images(model, model.features, image) for image, _ in (fitted, asked))
    return probe_accuracy(of_fitted, fitted[1].cpu(), of_asked, asked[1].cpu())


def _some(index: np.ndarray, most: int) -> np.ndarray:
    order = torch.randperm(len(index), generator=keyed_generator("forget findings"))[:most]
    return np.sort(index[order.numpy()])


def _samples(data: Any, index: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    image = data.images(index).to(device).float() / 255
    return image, torch.from_numpy(data.index.label[index]).to(device)


def _of_images(model: nn.Module, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    with frozen_eval(model):
        return torch.cat([function(some).float().cpu() for some in image.split(128)])


def _maps(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    pairs = zip(image.split(128), label.split(128), strict=True)
    return torch.cat([input_gradient(model, x, y).detach().cpu() for x, y in pairs])
