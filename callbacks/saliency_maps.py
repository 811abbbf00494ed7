"""An observer: where the network sees its evidence, on the same images in every epoch."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from ..attribution.aggregation import aggregate_maps
from ..attribution.methods import METHODS
from ..errors import RectifyError
from ..strategies.guard import SPLIT_WEIGHTS, kind
from .averaged_weights import _check_averaged
from .batches import image_batch
from .figure_moments import FigureMoments, _is_last_validation
from .figures import log_figure
from .panel import Panel, PanelChoice
from .panel_study import Row, panel_maps, rows_of, scaled_maps, weights_dtype
from .saliency_figure import draw_aggregate, draw_saliency
from .saliency_keys import PREFIX, check_watched, method_periods, saliency_periods
from .saliency_layers import compared_layers, explained_layers
from .saliency_numbers import saliency_scores
from .saliency_scales import Scales, fixing_epoch, prediction_row, scaled_row
from .saliency_text import _captions, log_descriptions


class SaliencyMaps(FigureMoments):
    """Draw what a fixed panel of validation images is recognised by, and log how the maps move over epochs.

    The panel is chosen once, by a hash of the samples' ids and stratified by class, while the first validation epoch
    runs by; it is the same for any batch size and number of processes, and is kept in the checkpoint. The maps explain
    the label and, where it is another class, the prediction. Every rank computes a share of the panel (so parameters
    may be sharded), rank 0 draws. Each method at each layer has one colour scale, fixed at a reference epoch with room
    for four times its values, so that epochs can be compared; the picture says how many pixels are above it.

    Draws `val/saliency`, with a sentence a map beside it, and `val/saliency_aggregate`, the mean maps of
    `aggregate` images, balanced by class and chosen by a hash like the panel, from the surest to the least sure. Logs
    under `val/saliency/`, as means over the panel:

    - `<method>/mass`, `<method>/entropy`, `<method>/gini`, and `<method>/drift` from the drawing before;
    - `class_sensitivity/<layer>`: rank correlation of the maps of two classes, 1 if a layer's map ignores the class;
    - `<method>/insertion`, `<method>/deletion` and those of a random order, normalised by confidence;
    - `cost`: seconds spent here over those of the epoch so far.

    Training with it is bit-identical to training without it: modes, `.grad`, hooks, buffers and random state are left
    as they were. Maps are computed in the weights' own precision, without autocast.

    Args:
        samples: images in the panel.
        methods: names of methods (see the page), or a mapping from names to epochs between their maps; in a list,
            methods of many passes are computed every `thorough_every_n_epochs`.
        layer: the layers for methods that read one, by name (`layer3`); by default the last one with a spatial output.
        every_n_epochs: epochs between drawings; the first and the last validation are drawn in any case.
        reference_epoch: the first drawing from this epoch on fixes the colour scales; by default a quarter of
            `max_epochs`, because gradients grow most at the start. Earlier drawings each have their own.
        thorough_every_n_epochs: epochs between insertion and deletion and pictures of mean maps, 0 for none.
        aggregate: validation images in the picture of mean maps, 0 for none.

    Raises:
        RectifyError: before training, on a run without validation, a strategy that splits weights a method needs
            whole, or Lightning's weight averaging listed before it; at the first validation batch, if the network or
            the batches cannot be explained.
    """

    def __init__(
        self,
        samples: int = 16,
        methods: tuple[str, ...] | dict[str, int] = ("input_gradient", "grad_cam"),
        layer: str | tuple[str, ...] | None = None,
        every_n_epochs: int = 1,
        reference_epoch: int | None = None,
        thorough_every_n_epochs: int = 5,
        aggregate: int = 256,
    ):
        for key, value in (("samples", samples), ("every_n_epochs", every_n_epochs), ("methods", len(methods))):
            if value < 1:
                raise RectifyError(f"SaliencyMaps: {key} must be at least 1, got {value}.")
        for key, value in (("thorough_every_n_epochs", thorough_every_n_epochs), ("aggregate", aggregate)):
            if value < 0:
                raise RectifyError(f"SaliencyMaps: {key} must be 0 or more, got {value}.")
        super().__init__(every_n_epochs)
        self.periods = method_periods(methods, max(1, thorough_every_n_epochs))
        self.samples, self.methods, self.layer, self.aggregate = samples, tuple(methods), layer, aggregate
        self.every_n_epochs, self.thorough_every_n_epochs = every_n_epochs, thorough_every_n_epochs
        self.reference_epoch = reference_epoch
        self.panel: Panel | None = None
        self.scales: Scales = {}
        self._choice: PanelChoice | None = None
        self._stream: PanelChoice | None = None
        self._rows: list[Row] | None = None
        self._now: list[Row] = []
        self._layers: list[str] = []
        self._thorough = self._drawn = False
        self._last: dict[str, int] = {}  # method or "thorough" -> epoch of its last turn
        self._before: dict[str, Tensor] = {}  # maps of the last drawing, scaled to 1, for the drift
        self._seconds = 0.0
        self._epoch_began: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._rows, self._layers = None, []  # those of an earlier run may be of another network
        split = kind(trainer.strategy)
        whole = [name for name in self.methods if METHODS[name].whole_weights]
        if split in SPLIT_WEIGHTS and whole:
            raise RectifyError(
                f"SaliencyMaps: {', '.join(whole)} moves weights, of which {split} holds only a part on each rank; "
                "take it out of methods, or use ddp."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            raise RectifyError(
                "SaliencyMaps takes its panel from the validation data, but this run has no validation; "
                "give it a validation loader or remove the callback."
            )
        _check_averaged(trainer, self)
        check_watched(trainer, self._key_periods(), layers_known=False)

    def later_keys(self) -> list[str]:
        """What validations of a training log, but its sanity check does not; layers are known once a batch was seen."""
        return list(self._key_periods())

    def _key_periods(self) -> dict[str, int]:
        layers = [self.layer] if isinstance(self.layer, str) else list(self.layer or [""])
        rows = rows_of(self.methods, layers) if self._rows is None else self._rows
        return saliency_periods(rows, self.periods, self.every_n_epochs, self.thorough_every_n_epochs, self._layers)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_began = time.perf_counter()
        self._seconds = 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._choice = self._stream = None
        if trainer.sanity_checking:
            return
        if self.panel is None:
            self._choice = PanelChoice(self.samples)
        self._drawn = self._due(trainer)
        self._thorough = self._drawn and self._turn(trainer, "thorough", self.thorough_every_n_epochs)
        if self._thorough and self.aggregate:
            self._stream = PanelChoice(self.aggregate)

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
        began = time.perf_counter()
        if self._rows is None:
            self._try(pl_module, batch)
            check_watched(trainer, self._key_periods())
        for choice in (self._choice, self._stream):
            if choice is not None:
                choice.add(image_batch(batch, "SaliencyMaps"))
        self._seconds += time.perf_counter() - began

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        began = time.perf_counter()
        if self._choice is not None:
            self.panel, self._choice = self._choice.choose(pl_module.device), None
        if self.panel is None or not self._drawn or self._rows is None:
            return
        due = {name for name in self.methods if self._turn(trainer, name, self.periods[name])}
        self._now = [row for row in self._rows if row.method in due]
        self._study(trainer, pl_module, self.panel)
        self._seconds += time.perf_counter() - began
        if trainer.state.fn == "fit" and self._epoch_began is not None:
            share = self._seconds / max(1e-9, time.perf_counter() - self._epoch_began)
            self._log(trainer, pl_module, {"cost": share})

    def state_dict(self) -> dict[str, Any]:
        panel = self.panel and {"ids": self.panel.ids, "labels": self.panel.labels, "images": self.panel.images}
        scales = {name: list(scale) for name, scale in self.scales.items()}
        moments = {"last_drawn": self._last_drawn, "last": dict(self._last), "before": dict(self._before)}
        return {"panel": panel, "scales": scales, **moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.panel = Panel(**state_dict["panel"]) if state_dict["panel"] else None
        self.scales = {name: (float(value), int(epoch)) for name, (value, epoch) in state_dict["scales"].items()}
        self._last_drawn = state_dict.get("last_drawn")
        self._last, self._before = dict(state_dict.get("last", {})), dict(state_dict.get("before", {}))

    def _study(self, trainer: Trainer, pl_module: LightningModule, panel: Panel) -> None:
        """Compute on all ranks, log, and draw on rank 0."""
        maps, logits = self._explain(pl_module, panel)
        prediction = logits.argmax(1)
        others: dict[str, Tensor] = {}
        cheap = [row for row in self._now if row.cheap]
        if bool((prediction != panel.labels).any()):
            others = panel_maps(pl_module, panel, cheap, prediction)
        scores, drifts = saliency_scores(pl_module, panel, maps, self._before, self._layers, self._thorough)
        self._log(trainer, pl_module, scores)
        stream = None if self._stream is None else self._stream.choose(pl_module.device)
        self._stream = None
        whole = {} if stream is None or not cheap else panel_maps(pl_module, stream, cheap, stream.labels, True)
        fix = fixing_epoch(trainer, self.reference_epoch)
        rows = [scaled_row(self.scales, row, maps[row.key], fix) for row in self._now]
        epoch, step = self._moment(trainer)
        if trainer.is_global_zero:
            names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
            captions = _captions(panel, logits, names)
            wrong = (prediction != panel.labels).view(-1, 1, 1)
            rows += [prediction_row(self.scales, row, maps, others, wrong) for row in cheap if others]
            title = f"saliency of the label, epoch {epoch}, step {step}"
            log_figure(trainer, "val/saliency", draw_saliency(panel.images, captions, rows, title), step)
            log_descriptions(trainer, "val/saliency", step, panel, captions, maps, self._before, drifts)
            if whole and stream is not None:
                probability = whole.pop("logits").softmax(1).gather(1, stream.labels[:, None]).squeeze(1)
                bins = {
                    row.title: (aggregate_maps(whole[row.key], probability), METHODS[row.method].signed)
                    for row in cheap
                }
                title = f"mean saliency of {len(stream)} images, epoch {epoch}, step {step}"
                log_figure(trainer, "val/saliency_aggregate", draw_aggregate(bins, title, "p of the label"), step)
        self._before |= {key: scaled_maps(values) for key, values in maps.items()}

    def _explain(self, pl_module: LightningModule, panel: Panel) -> tuple[dict[str, Tensor], Tensor]:
        """Return the maps (n, H, W) of each method and the logits (n, K), on the CPU, the same on every rank."""
        whole = panel_maps(pl_module, panel, self._now, panel.labels, with_logits=True)
        return whole, whole.pop("logits")

    def _log(self, trainer: Trainer, pl_module: LightningModule, scores: dict[str, float]) -> None:
        # equal on all ranks already; sync_dist only keeps Lightning from warning that it might not be
        logged = {f"{PREFIX}{name}": value for name, value in scores.items()}
        pl_module.log_dict(logged, sync_dist=trainer.world_size > 1, rank_zero_only=False)

    def _try(self, pl_module: LightningModule, batch: Any) -> None:
        """Find the layers and explain one image: what cannot work shall fail at the first batch, not after an epoch."""
        found = image_batch(batch, "SaliencyMaps")
        image = found.image[:1].to(weights_dtype(pl_module)) if found.image.is_floating_point() else found.image[:1]
        rows = rows_of(self.methods, explained_layers(pl_module, image, self.methods, self.layer))
        for row in rows:
            if row.cheap:
                row.explain(pl_module, image, found.label[:1])
        self._layers = compared_layers(pl_module, image)
        self._rows = rows

    def _turn(self, trainer: Trainer, name: str, every: int) -> bool:
        """Whether a part of the drawing has its turn; if so, this counts as its last one."""
        if trainer.state.fn != "fit" or not every:
            return bool(every)
        epoch, last = trainer.current_epoch, self._last.get(name)
        if last is not None and 0 < epoch - last < every and not _is_last_validation(trainer):
            return False
        self._last[name] = epoch
        return True
