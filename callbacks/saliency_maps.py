"""An observer: where the network sees its evidence, on the same images in every epoch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from ..attribution import grad_cam, input_gradient, last_spatial_layer
from ..collectives import gather_rows, rank, world_size
from ..errors import RectifyError, did_you_mean
from ..frozen import frozen_eval
from .batches import image_batch
from .figure_moments import FigureMoments
from .figures import log_figure
from .panel import Panel, PanelChoice
from .saliency_figure import MapRow, draw_saliency

Method = Callable[[nn.Module, Tensor, Tensor, str], Tensor]
METHODS: dict[str, Method] = {
    "input_gradient": lambda model, images, target, layer: input_gradient(model, images, target),
    "grad_cam": grad_cam,
}
NEED_LAYER = {"grad_cam"}
CHUNK = 16
HEADROOM = 4.0


class SaliencyMaps(FigureMoments):
    """Draw what a fixed panel of validation images is recognised by, under the key `val/saliency`.

    The panel is chosen once, by a hash of the samples' ids and stratified by class, while the first validation epoch
    runs by; it is the same for any batch size and number of processes, and is kept in the checkpoint. The maps explain
    the label. Every rank computes a share of the panel (so parameters may be sharded), rank 0 draws.
    Each method has one colour scale, fixed at a reference epoch with room for four times its values, so that epochs can
    be compared; the picture says how many pixels are above it.

    Training with it is bit-identical to training without it: modes, `.grad`, hooks, buffers and random state are left
    as they were. Maps are computed in the weights' own precision, without autocast.

    Args:
        samples: images in the panel.
        methods: among `input_gradient` and `grad_cam`.
        layer: the layer for Grad-CAM by name (`layer3`); by default the last one with a spatial output.
        every_n_epochs: epochs between drawings; the first and the last validation are drawn in any case.
        reference_epoch: the first drawing from this epoch on fixes the colour scales; by default a quarter of
            `max_epochs`, because gradients grow most at the start. Earlier drawings each have their own.

    Raises:
        RectifyError: before training, on a run without validation; at the first validation batch, if the network or
            the batches cannot be explained.
    """

    def __init__(
        self,
        samples: int = 16,
        methods: tuple[str, ...] = ("input_gradient", "grad_cam"),
        layer: str | None = None,
        every_n_epochs: int = 1,
        reference_epoch: int | None = None,
    ):
        for key, value in (("samples", samples), ("every_n_epochs", every_n_epochs), ("methods", len(methods))):
            if value < 1:
                raise RectifyError(f"SaliencyMaps: {key} must be at least 1, got {value}.")
        for method in methods:
            if method not in METHODS:
                raise RectifyError(f"SaliencyMaps: methods has no {method!r}.{did_you_mean(method, METHODS)}")
        super().__init__(every_n_epochs)
        self.samples, self.methods, self.layer = samples, tuple(methods), layer
        self.every_n_epochs, self.reference_epoch = every_n_epochs, reference_epoch
        self.panel: Panel | None = None
        self.scales: dict[str, tuple[float, int]] = {}  # method -> (brightest value, the epoch that fixed it)
        self._choice: PanelChoice | None = None
        self._layer: str | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            raise RectifyError(
                "SaliencyMaps takes its panel from the validation data, but this run has no validation; "
                "give it a validation loader or remove the callback."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._choice = None
        if self.panel is None and not trainer.sanity_checking:
            self._choice = PanelChoice(self.samples)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx:
            return
        if self._layer is None:
            self._try(pl_module, batch)
        if self._choice is not None:
            self._choice.add(image_batch(batch, "SaliencyMaps"))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._choice is not None:
            self.panel, self._choice = self._choice.choose(pl_module.device), None
        if self.panel is None or not self._due(trainer):
            return
        maps, logits = self._explain(pl_module, self.panel)
        rows = [self._row(name, maps[name], self._fixes(trainer)) for name in self.methods]
        if trainer.is_global_zero:
            captions = _captions(self.panel, logits, getattr(getattr(trainer, "datamodule", None), "class_names", None))
            epoch, step = self._moment(trainer)
            title = f"saliency of the label, epoch {epoch}, step {step}"
            figure = draw_saliency(self.panel.images, captions, rows, title)
            log_figure(trainer, "val/saliency", figure, step)

    def state_dict(self) -> dict[str, Any]:
        panel = self.panel and {"ids": self.panel.ids, "labels": self.panel.labels, "images": self.panel.images}
        scales = {name: list(scale) for name, scale in self.scales.items()}
        return {"panel": panel, "scales": scales, "last_drawn": self._last_drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.panel = Panel(**state_dict["panel"]) if state_dict["panel"] else None
        self.scales = {name: (float(value), int(epoch)) for name, (value, epoch) in state_dict["scales"].items()}
        self._last_drawn = state_dict.get("last_drawn")

    def _try(self, pl_module: LightningModule, batch: Any) -> None:
        """Find the layer and explain one image: what cannot work shall fail at the first batch, not after an epoch."""
        found = image_batch(batch, "SaliencyMaps")
        image = found.image[:1].to(_dtype(pl_module)) if found.image.is_floating_point() else found.image[:1]
        layer = self.layer
        if layer is None and NEED_LAYER & set(self.methods):
            layer = last_spatial_layer(pl_module, image)
            if layer is None:
                raise RectifyError(
                    f"SaliencyMaps: {type(pl_module).__name__} has no layer with a spatial output (B, C, h, w), "
                    "which Grad-CAM needs; set methods: [input_gradient]."
                )
        self._layer = layer or ""
        for method in self.methods:
            METHODS[method](pl_module, image, found.label[:1], self._layer)

    def _explain(self, pl_module: LightningModule, panel: Panel) -> tuple[dict[str, Tensor], Tensor]:
        """Return the maps (n, H, W) of each method and the logits (n, K), on the CPU, the same on every rank."""
        share = -(-len(panel) // world_size())  # equal on all ranks, wrapping around: sharded weights need equal passes
        mine = (torch.arange(share) + rank() * share) % len(panel)
        parts: dict[str, list[Tensor]] = {name: [] for name in ("logits", *self.methods)}
        for places in mine.split(CHUNK):
            images = panel.images[places].to(pl_module.device, _dtype(pl_module))
            target = panel.labels[places].to(pl_module.device)
            with frozen_eval(pl_module):
                parts["logits"].append(pl_module(images).float())
            for method in self.methods:
                parts[method].append(METHODS[method](pl_module, images, target, self._layer or "").float())
        whole = {name: torch.cat(gather_rows(torch.cat(part)))[: len(panel)].cpu() for name, part in parts.items()}
        return whole, whole.pop("logits")

    def _row(self, method: str, maps: Tensor, fix: int | None) -> MapRow:
        name = method.replace("_", " ").replace("grad cam", "Grad-CAM")
        if method in self.scales:
            return MapRow(name, maps, *self.scales[method])
        usual = float(np.quantile(maps.numpy(), 0.995))  # torch.quantile takes 16 million values at most
        scale = HEADROOM * usual if usual > 0 else 1.0
        if fix is None or usual == 0:  # maps that are all zero fix nothing
            return MapRow(name, maps, scale)
        self.scales[method] = scale, fix
        return MapRow(name, maps, scale, fix)

    def _fixes(self, trainer: Trainer) -> int | None:
        """The current epoch if it is the one to fix the scales, or later."""
        reference = self.reference_epoch
        if reference is None:
            reference = max(trainer.max_epochs or 0, 0) // 4
        return trainer.current_epoch if trainer.state.fn == "fit" and trainer.current_epoch >= reference else None


def _dtype(module: nn.Module) -> torch.dtype:
    """The type of the weights: bf16-true networks want bf16 images."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _captions(panel: Panel, logits: Tensor, names: list[str] | None) -> list[tuple[str, str, bool]]:
    def name(label: int) -> str:
        return str(names[label])[:16] if names is not None and label < len(names) else str(label)

    confidence, prediction = logits.softmax(1).max(1)
    return [
        (name(label), f"{name(guess)} {sure:.2f}", guess == label)
        for label, guess, sure in zip(panel.labels.tolist(), prediction.tolist(), confidence.tolist(), strict=True)
    ]
