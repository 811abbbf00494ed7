"""The study of a finished model: maps of every method, measures of them, and pictures, in a run folder."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from ..attribution.aggregation import AggregateMaps, aggregate_maps
from ..attribution.class_dependence import class_sensitivity
from ..attribution.layers import last_spatial_layer, spatial_layers
from ..attribution.leakage import label_leakage
from ..attribution.linear_part import linear_interpreter, top_singular_images
from ..attribution.localisation import grid_pointing_game
from ..attribution.map_numbers import map_statistics
from ..attribution.methods import METHODS, saliency_method
from ..attribution.pixel_ranking import insertion_deletion, masking_contrast, random_maps
from ..callbacks.batches import image_batch
from ..callbacks.panel import Panel, PanelChoice
from ..callbacks.robustness_card import _finite
from ..callbacks.saliency_figure import MapRow, draw_aggregate, draw_saliency, usual_scale
from ..callbacks.saliency_text import _captions, descriptions
from ..errors import RectifyError
from ..files import atomic_path
from ..frozen import frozen_eval

DEFAULT_METHODS = ("input_gradient", "smooth_grad", "integrated_gradients", "grad_cam", "norm_grad", "rise")
CHUNK, CHEAP, GRIDS = 16, 64, 25
SURE = 0.9


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

    Measures, of the label and as means: statistics of the maps, insertion and deletion beside a random order, the
    contrast to the runner-up class, label leakage, and for networks that take larger images the share inside the cell
    in the grid pointing game; of the model: class sensitivity by layer, and the share of the biases in its logits.
    One process.

    Args:
        model: maps images to logits (B, K); moved to `device`, and otherwise left as it was.
        datamodule: with `setup` done, or to be done; its test loader is read, or the validation loader if it is empty.
        folder: of the run; figures go into `figures/explain`.
        methods: names as for `SaliencyMaps`.
        layer: for methods that read one; by default the last with a spatial output.
        samples: images in the panel.
        images: images that measures and mean maps are taken of.

    Raises:
        RectifyError: an unknown method or layer, numbers below 1, or a model that cannot be explained.
    """
    for name, value in (("samples", samples), ("images", images), ("methods", len(methods))):
        if value < 1:
            raise RectifyError(f"explain: {name} must be at least 1, got {value}.")
    for name in methods:
        saliency_method(name, "explain")
    model = model.to(device)
    panel, many = _choose(datamodule, [samples, images], torch.device(device))
    place = layer or last_spatial_layer(model, many.images[:1].to(device)) or ""
    if not place and any(METHODS[name].needs_layer for name in methods):
        raise RectifyError(
            f"explain: {type(model).__name__} has no layer with a spatial output; take out methods that read one, or "
            "name a layer of tokens (such as layer: model.blocks.11.norm1)."
        )
    maps = {name: _maps(model, panel, name, place, panel.labels, device) for name in methods}
    measured = {name: _measures(model, many, name, place, device) for name in methods}
    measured["random order"] = _measures(model, many, None, place, device)
    grids, bins = _pointing_game(model, many, methods, place, device)
    for name, share in grids.items():
        measured[name]["grid_pointing_game"] = share
    whole = _of_model(model, many, device)
    files = _write(Path(folder), model, datamodule, panel, maps, bins, measured, whole, device)
    return Study(measured, whole, files)


def _choose(datamodule: Any, sizes: list[int], device: torch.device) -> tuple[Panel, Panel]:
    """The same images whatever the batch size, stratified by class."""
    datamodule.prepare_data()
    datamodule.setup("test")
    for loader_of in (datamodule.test_dataloader, datamodule.val_dataloader):
        loader = loader_of()
        if isinstance(loader, list | tuple):  # of several the first; a list of none is no data
            loader = loader[0] if loader else ()
        choices = [PanelChoice(size) for size in sizes]
        for batch in () if loader is None else loader:  # read, not asked for its length: a stream has none
            moved = datamodule.on_after_batch_transfer(datamodule.on_before_batch_transfer(batch, 0), 0)
            found = image_batch(moved, "explain")
            for choice in choices:
                choice.add(found)
        panel, many = (choice.choose(torch.device("cpu")) for choice in choices)
        if panel is not None and many is not None:
            return panel, many
    raise RectifyError("explain: the data hold no test or validation images.")


def _chunks(panel: Panel, device: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    places = torch.arange(len(panel)).split(CHUNK)
    return [(place, panel.images[place].to(device), panel.labels[place].to(device)) for place in places]


def _maps(model: nn.Module, panel: Panel, method: str, layer: str, target: Tensor, device: Any) -> Tensor:
    found = [
        METHODS[method].explain(model, x, target[p].to(device), layer).float() for p, x, _ in _chunks(panel, device)
    ]
    return torch.cat(found).cpu()


def _measures(model: nn.Module, panel: Panel, method: str | None, layer: str, device: Any) -> dict[str, float]:
    """Numbers of a method, as means over at most `CHEAP` images where it costs many passes."""
    if method is not None and METHODS[method].passes > CHEAP:
        panel = panel.spread(CHEAP)
    curves, sums = [], []
    for _, x, label in _chunks(panel, device):
        maps = random_maps(x) if method is None else METHODS[method].explain(model, x, label, layer).float()
        curve = insertion_deletion(model, x, label, maps)
        leak = label_leakage(model, x, label, maps)
        with frozen_eval(model):
            runner_up = model(x).scatter(1, label[:, None], -torch.inf).argmax(1)
        numbers = {**map_statistics(maps), "class_free_value": leak.class_free, "leakage": leak.excess}
        numbers["contrast_to_runner_up"] = masking_contrast(model, x, maps, label[:, None], runner_up[:, None])
        sums.append({name: value.double().cpu() for name, value in numbers.items()})
        curves.append(curve)
    joined = type(curves[0])(torch.cat([c.insertion for c in curves], 1), torch.cat([c.deletion for c in curves], 1))
    found = {name: float(torch.cat([part[name] for part in sums]).mean()) for name in sums[0]}
    found |= {"insertion": joined.normalised_insertion, "deletion": joined.normalised_deletion}
    found |= {"insertion_area": joined.insertion_area, "deletion_area": joined.deletion_area, "images": len(panel)}
    return found


def _pointing_game(
    model: nn.Module, panel: Panel, methods: Sequence[str], layer: str, device: Any
) -> tuple[dict[str, float], dict[str, tuple[AggregateMaps, bool]]]:
    """Scores and mean maps of grids of images the model is sure of; nothing for a model of one image size."""
    with frozen_eval(model):
        p = torch.cat([model(x).softmax(1).cpu() for _, x, _ in _chunks(panel, device)])
    sure = p.gather(1, panel.labels[:, None]).squeeze(1) >= SURE
    grids = _grids(panel.labels, sure)
    if not grids or not _takes_grids(model, panel, device):
        return {}, {}
    scores: dict[str, float] = {}
    bins: dict[str, tuple[AggregateMaps, bool]] = {}
    for name in methods:
        if METHODS[name].passes > CHEAP:
            continue
        method = METHODS[name]
        found = []
        for four in grids[:GRIDS]:
            explained: Callable = lambda m, x, y, method=method: method.explain(m, x, y, layer).float()  # noqa: E731
            found.append(
                grid_pointing_game(model, panel.images[four].to(device), panel.labels[four].to(device), explained)
            )
        score = torch.cat([result.score for result in found]).cpu()
        # maps are turned so that the explained cell stands in the upper left corner
        turned = torch.cat([_first_cell(result.maps, result.place) for result in found]).cpu()
        scores[name] = float(score.mean())
        bins[method.title] = (aggregate_maps(turned, score), method.signed)
    return scores, bins


def _takes_grids(model: nn.Module, panel: Panel, device: Any) -> bool:
    """Whether images twice as large pass; a head on the whole last map or position embeddings may not take them."""
    try:
        with frozen_eval(model):
            model(panel.images[:1].repeat(1, 1, 2, 2).to(device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError, RectifyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        rank_zero_info(f"explain: no grid pointing game, the model takes images of one size only: {reason}")
        return False
    return True


def _grids(labels: Tensor, sure: Tensor) -> list[Tensor]:
    """Fours of different classes among the sure images: the first ones of the classes, then the second ones, …"""
    count: dict[int, int] = {}
    ordered = []
    for place, label in enumerate(labels.tolist()):
        if sure[place]:
            count[label] = count.get(label, 0) + 1
            ordered.append((count[label], label, place))
    fours = [sorted(ordered)[start : start + 4] for start in range(0, len(ordered) - 3, 4)]
    return [torch.tensor([place for *_, place in four]) for four in fours if len({label for _, label, _ in four}) == 4]


def _first_cell(maps: Tensor, place: Tensor) -> Tensor:
    height, width = maps.shape[1] // 2, maps.shape[2] // 2
    moved = [
        torch.roll(m, (-(int(k) // 2) * height, -(int(k) % 2) * width), (0, 1))
        for m, k in zip(maps, place, strict=True)
    ]
    return torch.stack(moved)


def _of_model(model: nn.Module, panel: Panel, device: Any) -> dict[str, Any]:
    layers = spatial_layers(model, panel.images[:1].to(device))
    sensitivity: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    bias: list[Tensor] = []
    for _, x, _ in _chunks(panel, device):
        for layer, values in class_sensitivity(model, x, layers).items() if layers else ():
            sensitivity[layer].append(values.cpu())
        bias.append(linear_interpreter(model, x).bias_share.cpu())
    return {
        "class_sensitivity": {layer: float(torch.cat(values).nanmean()) for layer, values in sensitivity.items()},
        "bias_share": float(torch.cat(bias).mean()),
    }


def _write(
    folder: Path,
    model: nn.Module,
    datamodule: Any,
    panel: Panel,
    maps: dict[str, Tensor],
    bins: dict[str, tuple[AggregateMaps, bool]],
    measured: dict[str, dict[str, float]],
    whole: dict[str, Any],
    device: Any,
) -> list[Path]:
    with frozen_eval(model):
        logits = torch.cat([model(x).float().cpu() for _, x, _ in _chunks(panel, device)])
    captions = _captions(panel, logits, getattr(datamodule, "class_names", None))
    rows = [
        MapRow(METHODS[name].title, values, usual_scale(values), None, METHODS[name].signed)
        for name, values in maps.items()
    ]
    pictures = {"panel": draw_saliency(panel.images, captions, rows, "saliency of the label")}
    if bins:
        pictures["aggregate"] = draw_aggregate(
            bins, "mean maps of grids, explained cell upper left", "share in the cell"
        )
    _, directions, _ = top_singular_images(model, panel.images[0].to(device), min(3, logits.shape[1]))
    top = directions.sum(1).float().cpu()
    title = [
        MapRow(f"singular image {i + 1}", top[i : i + 1], usual_scale(top[i : i + 1]), None, True)
        for i in range(len(top))
    ]
    pictures["singular_images"] = draw_saliency(
        panel.images[:1], captions[:1], title, "directions that move the logits"
    )
    files = []
    for name, pixels in pictures.items():
        files.append(folder / "figures" / "explain" / f"{name}.png")
        _save_picture(files[-1], pixels)
    texts = {
        "explain.json": json.dumps(_finite({"methods": measured, "model": whole}), indent=2, allow_nan=False) + "\n",
        "explain.txt": "\n".join(descriptions(panel, captions, maps)) + "\n",
        "explain.csv": _table(measured),
    }
    for name, text in texts.items():
        files.append(folder / name)
        with atomic_path(files[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files


def _save_picture(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _table(measured: dict[str, dict[str, float]]) -> str:
    import io

    columns = list(dict.fromkeys(name for row in measured.values() for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *columns])
    for method, row in measured.items():
        writer.writerow([method, *(f"{row[name]:.6g}" if name in row else "" for name in columns)])
    return text.getvalue()
