"""What a study leaves in its folder: pictures, a table, numbers and sentences."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attribution.aggregation import AggregateMaps
from ..attribution.linear_part import top_singular_images
from ..attribution.methods import METHODS
from ..callbacks.panel import Panel
from ..callbacks.robustness_card import _finite
from ..callbacks.saliency_figure import HEADROOM, MapRow, draw_aggregate, draw_saliency, usual_scale
from ..callbacks.saliency_text import _captions, descriptions
from ..files import atomic_path
from ..frozen import frozen_eval
from .explained_images import chunks

Bins = dict[str, tuple[AggregateMaps, bool]]


def write_study(
    folder: Path,
    model: nn.Module,
    class_names: list[str] | None,
    panel: Panel,
    layer: str,
    maps: dict[str, Tensor],
    bins: Bins,
    measured: dict[str, dict[str, float]],
    whole: dict[str, Any],
    device: Any,
) -> list[Path]:
    """Write `figures/explain/*.png`, `explain.json`, `explain.csv` and `explain.txt`; return their paths.

    Args:
        layer: that methods which read one have read; pictures and sentences name it.
        maps: (n, H, W) of the panel by method.
        bins: of the grid pointing game, empty without one.
        measured, whole: of the methods and of the model.
    """
    with frozen_eval(model):
        logits = torch.cat([model(x).float().cpu() for _, x, _ in chunks(panel, device)])
    captions = _captions(panel, logits, class_names)
    files = []
    for name, pixels in _pictures(model, panel, captions, layer, maps, bins, logits.shape[1], device).items():
        files.append(folder / "figures" / "explain" / f"{name}.png")
        _save_picture(files[-1], pixels)
    settings = {name: METHODS[name].settings for name in maps}
    found = {"layer": layer, "settings": settings, "methods": measured, "model": whole}
    named = {f"{name} at {layer}" if METHODS[name].needs_layer else name: values for name, values in maps.items()}
    texts = {
        "explain.json": json.dumps(_finite(found), indent=2, allow_nan=False) + "\n",
        "explain.csv": _table(measured),
        "explain.txt": "\n".join(descriptions(panel, captions, named)) + "\n",
    }
    for name, text in texts.items():
        files.append(folder / name)
        with atomic_path(files[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files


def _pictures(
    model: nn.Module,
    panel: Panel,
    captions: list[tuple[str, str, bool]],
    layer: str,
    maps: dict[str, Tensor],
    bins: Bins,
    classes: int,
    device: Any,
) -> dict[str, np.ndarray]:
    rows = [
        _row(METHODS[name].title, values, METHODS[name].signed, _place(layer) if METHODS[name].needs_layer else "")
        for name, values in maps.items()
    ]
    found = {"panel": draw_saliency(panel.images, captions, rows, "saliency of the label, colours by its square root")}
    if bins:
        found["aggregate"] = draw_aggregate(
            bins, "mean maps of grids, explained cell upper left; under them the share in it, chance 0.25", "that share"
        )
    gains, directions, _ = top_singular_images(model, panel.images[0].to(device), min(3, classes))
    singular = [
        _row(f"singular image {number + 1}", top.sum(0, keepdim=True), True, f"moves logits by {gain:.3g}")
        for number, (top, gain) in enumerate(zip(directions.float().cpu(), gains.tolist(), strict=True))
    ]
    found["singular_images"] = draw_saliency(
        panel.images[:1], captions[:1], singular, "directions that move the logits most"
    )
    return found


def _place(layer: str) -> str:
    return f"at {layer}"


def _row(name: str, maps: Tensor, signed: bool, of: str) -> MapRow:
    """A row on a scale of its own; the room above that the callback leaves for later epochs is not needed."""
    usual = usual_scale(maps)
    return MapRow(name, maps, usual / HEADROOM if bool(maps.any()) else usual, None, signed, of)


def _save_picture(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _table(measured: dict[str, dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in measured.values() for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *columns])
    for method, row in measured.items():
        writer.writerow([method, *(f"{row[name]:.6g}" if name in row else "" for name in columns)])
    return text.getvalue()
