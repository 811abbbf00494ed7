"""Maps and numbers of a panel, computed by all ranks in equal shares and the same on every rank afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from ..attribution.class_dependence import class_sensitivity
from ..attribution.methods import METHODS
from ..attribution.pixel_ranking import PixelCurves, insertion_deletion, random_maps
from ..collectives import gather_rows, rank, world_size
from ..frozen import frozen_eval
from .panel import Panel

CHUNK = 16
CHEAP = 4  # passes up to which a method is computed for the prediction too, and for the whole-data picture


@dataclass(frozen=True)
class Row:
    """A method at a layer: `key` names its maps and curves, `scale_key` its colour scale."""

    key: str
    method: str
    layer: str = ""

    @property
    def scale_key(self) -> str:
        return f"{self.method}@{self.layer}" if METHODS[self.method].needs_layer else self.method

    @property
    def title(self) -> str:
        layer = self.layer.removeprefix("backbone.")
        return METHODS[self.method].title + (f" at {layer}" if METHODS[self.method].needs_layer else "")

    @property
    def cheap(self) -> bool:
        return METHODS[self.method].passes <= CHEAP

    def explain(self, module: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        return METHODS[self.method].explain(module, images, target, self.layer).float()


def rows_of(methods: tuple[str, ...], layers: list[str]) -> list[Row]:
    """One row a method, or a method and layer where there are several."""
    rows = []
    for method in methods:
        if not METHODS[method].needs_layer:
            rows.append(Row(method, method))
        elif len(layers) == 1:
            rows.append(Row(method, method, layers[0]))
        else:
            rows += [Row(f"{method}@{layer}", method, layer) for layer in layers]
    return rows


@dataclass
class Shares:
    """The samples of a panel this rank computes, in chunks: equal for all ranks, since split weights need equal passes.

    The last ranks wrap around; `join` drops what was computed twice.
    """

    module: LightningModule
    panel: Panel
    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Places in the panel, and the images on the module's device in the weights' precision."""
        share = -(-len(self.panel) // world_size())
        mine = (torch.arange(share) + rank() * share) % len(self.panel)
        for places in mine.split(CHUNK):
            yield places, self.panel.images[places].to(self.module.device, weights_dtype(self.module))

    def add(self, name: str, values: Tensor) -> None:
        self.parts.setdefault(name, []).append(values)

    def join(self) -> dict[str, Tensor]:
        """Everything added, in the order of the panel, on the CPU of every rank (a collective)."""
        count = len(self.panel)
        return {name: torch.cat(gather_rows(torch.cat(part)))[:count].cpu() for name, part in self.parts.items()}


def panel_maps(
    module: LightningModule, panel: Panel, rows: list[Row], target: Tensor, with_logits: bool = False
) -> dict[str, Tensor]:
    """Return the maps (n, H, W) by row key, and with `with_logits` the logits (n, K) as `logits`."""
    shares = Shares(module, panel)
    for places, images in shares.chunks():
        if with_logits:
            with frozen_eval(module):
                shares.add("logits", module(images).float())
        for row in rows:
            shares.add(row.key, row.explain(module, images, target[places].to(module.device)))
    return shares.join()


def panel_sensitivity(module: LightningModule, panel: Panel, layers: list[str]) -> dict[str, float]:
    """Return the mean rank correlation of the maps of the likeliest and the least likely class, by layer.

    Images whose maps are all zero do not count; a layer at which all are such is left out.
    """
    shares = Shares(module, panel)
    for _, images in shares.chunks():
        for layer, values in class_sensitivity(module, images, layers).items():
            shares.add(layer, values)
    return {layer: float(values.nanmean()) for layer, values in shares.join().items() if not values.isnan().all()}


def panel_curves(module: LightningModule, panel: Panel, maps: dict[str, Tensor], steps: int) -> dict[str, PixelCurves]:
    """Return insertion and deletion of the label by the order of each method's maps, and by a random order."""
    shares = Shares(module, panel)
    for places, images in shares.chunks():
        target = panel.labels[places].to(module.device)
        orders = {key: values[places].to(module.device) for key, values in maps.items()}
        for key, order in {**orders, "random": random_maps(images)}.items():
            curves = insertion_deletion(module, images, target, order, steps)
            shares.add(f"{key} insertion", curves.insertion.T)
            shares.add(f"{key} deletion", curves.deletion.T)
    joined = shares.join()
    return {key: PixelCurves(joined[f"{key} insertion"].T, joined[f"{key} deletion"].T) for key in [*maps, "random"]}


def weights_dtype(module: nn.Module) -> torch.dtype:
    """The type of the weights: bf16-true networks want bf16 images."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def scaled_maps(maps: Tensor) -> Tensor:
    """Each map by its largest magnitude, in half precision: its order is all that the drift reads."""
    return (maps / maps.abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, 1, 1)).half()
