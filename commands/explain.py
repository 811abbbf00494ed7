"""The study of a finished model: maps of every method, measures of them, and pictures, in a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attribution.layers import find_layer, last_spatial_layer
from ..attribution.methods import METHODS, saliency_method
from ..attribution.score import check_target, logits_of
from ..callbacks.panel import Panel
from ..errors import RectifyError
from ..frozen import frozen_eval
from .explained_images import choose_images, chunks
from .method_measures import CHEAP, measure_methods, measure_model
from .pointing_game import play_pointing_game
from .study_files import write_study

DEFAULT_METHODS = ("input_gradient", "smooth_grad", "integrated_gradients", "grad_cam", "norm_grad", "rise")


@dataclass(frozen=True)
class Study:
    """What was found: measures by method, and of the model, and the files written."""

    methods: dict[str, dict[str, float]]
    model: dict[str, Any]
    files: list[Path]


def explain(
    model: nn.Module,
    datamodule: Any,
    folder: Path | str,
    methods: Sequence[str] = DEFAULT_METHODS,
    layer: str | None = None,
    samples: int = 16,
    images: int = 200,
    device: torch.device | str = "cpu",
) -> Study:
    """Explain test images of a finished model; write `explain.json`, `explain.csv`, `explain.txt` and figures.

    Measures, of the label and as means: statistics of the maps, insertion and deletion beside a random order of the
    same images, the contrast to the runner-up class, label leakage, and for networks that take larger images the share
    inside the cell in the grid pointing game; of the model: class sensitivity by layer, and the share of the biases in
    its logits. One process.

    Args:
        model: maps images to logits (B, K); moved to `device`, and otherwise left as it was.
        datamodule: any LightningDataModule; its test images are read, or those of validation if it has none.
        folder: of the run; figures go into `figures/explain`.
        methods: names as for `SaliencyMaps`.
        layer: for methods that read one; by default the last with a spatial output.
        samples: images in the panel.
        images: images that measures and mean maps are taken of; methods of many passes take 64 of them.

    Raises:
        RectifyError: an unknown method or layer, numbers below 1, data that are no images, or a model that cannot be
            explained.
    """
    methods = list(dict.fromkeys(methods))
    for name, value in (("samples", samples), ("images", images), ("methods", len(methods))):
        if value < 1:
            raise RectifyError(f"explain: {name} must be at least 1, got {value}.")
    for name in methods:
        saliency_method(name, "explain")
    model = model.to(device)
    if layer is not None:
        find_layer(model, layer)
    panel, many = choose_images(datamodule, [samples, images], torch.device(device))
    with frozen_eval(model):
        logits = logits_of(model, many.images[:1].to(device))
    check_target(many.labels, many.images, logits.shape[1])
    place = layer or last_spatial_layer(model, many.images[:1].to(device)) or ""
    if not place and any(METHODS[name].needs_layer for name in methods):
        raise RectifyError(
            f"explain: {type(model).__name__} has no layer with a spatial output; take out methods that read one, or "
            "name a layer of tokens (such as layer: model.blocks.11.norm1)."
        )
    maps = {name: _maps(model, panel, name, place, device) for name in methods}
    measured = measure_methods(model, many, methods, place, device)
    cheap = [name for name in methods if METHODS[name].passes <= CHEAP]
    grids, bins = play_pointing_game(model, many, cheap, place, device)
    for name, share in grids.items():
        measured[name]["grid_pointing_game"] = share
    whole = measure_model(model, many, device)
    names = getattr(datamodule, "class_names", None)
    files = write_study(Path(folder), model, names, panel, place, maps, bins, measured, whole, device)
    return Study(measured, whole, files)


def _maps(model: nn.Module, panel: Panel, method: str, layer: str, device: Any) -> Tensor:
    found = [METHODS[method].explain(model, x, label, layer).float() for _, x, label in chunks(panel, device)]
    return torch.cat(found).cpu()
