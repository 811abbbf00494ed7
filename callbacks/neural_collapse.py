"""An observer: how far features and classifier have collapsed, and where mixed examples lie among them."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from ..backbones.last_linear import logit_layer
from ..collectives import gather_rows, rank, sum_over_ranks, world_size
from ..errors import RectifyError
from ..frozen import frozen_eval
from ..metrics import ClassMoments, Deduplicator, MixGeometry, collapse_scores, nearest_mean_disagreement
from ..metrics.mix_geometry import LAMBDAS
from ..randomness import keyed_generator
from ..strategies.gathering import whole_weights
from .averaged_weights import _check_averaged
from .batches import ImageBatch, image_batch
from .collapse_figure import draw_collapse
from .figure_moments import FigureMoments, _is_last_validation
from .figures import log_figure
from .panel import PanelChoice
from .robustness_keys import check_fresh

WHO = "NeuralCollapse"
COLLAPSE = ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4")
MIXED = ("mix_same_spread", "mix_off_plane", "mix_amplification")


class NeuralCollapse(FigureMoments):
    """Log NC1 to NC4 of the validation features and the geometry of mixed examples, synchronised over ranks.

    Logs `val/nc1`, `val/nc2_norm`, `val/nc2_angle`, `val/nc3` (`collapse_scores`), `val/nc4` (share of samples whose
    nearest class mean is not the prediction), `val/mix_same_spread`, `val/mix_off_plane` and `val/mix_amplification`
    (`MixGeometry`). The figure, `val/neural_collapse`, projects mixed validation examples onto the plane of three
    classes' classifier rows, beside the norm over λ.

    Features and classifier are those of a backbone with `features` and a head whose last layer is linear. The network
    is in evaluation mode and left as it was found: the published figures are of training mode, where batch statistics
    are those of the mixed batch. One extra pass over the validation images, and 11 over the panel.

    Measured are the first validation of a training, then each that comes `every_n_epochs` or more after the last one
    measured, and the last one; figures are drawn of measured ones.

    Args:
        panel: validation samples that are mixed in pairs, half of them within a class. They are chosen by a hash of
            their index, evenly over the classes (of more than half as many classes, over so many of them): the same
            in every epoch and on any number of processes.
        figure_every_n_epochs: epochs between figures, 0 for none.
        every_n_epochs: epochs between measurements.

    Raises:
        RectifyError: a bad option; a backbone without features and linear head; NaN features, logits or weights; a
            callback that monitors what is not measured every epoch.
    """

    def __init__(self, panel: int = 128, figure_every_n_epochs: int = 1, every_n_epochs: int = 1):
        if panel < 2:
            raise RectifyError(f"{WHO}: panel is {panel}; give at least 2 samples to mix.")
        if every_n_epochs < 1 or figure_every_n_epochs < 0:
            raise RectifyError(
                f"{WHO}: every_n_epochs {every_n_epochs} and figure_every_n_epochs {figure_every_n_epochs}; "
                "give at least 1 and at least 0."
            )
        super().__init__(figure_every_n_epochs)
        self.panel, self.every_n_epochs = panel, every_n_epochs
        self._last_measured: int | None = None  # epoch, kept in the checkpoint
        self._measures = False  # this validation
        self._moments: ClassMoments | None = None
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._choice: PanelChoice | None = None
        self._seen = Deduplicator()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        classifier(getattr(pl_module, "backbone", pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _check_averaged(trainer, self)
        check_fresh(trainer, self.later_keys(), self.every_n_epochs, WHO)

    def later_keys(self) -> list[str]:
        """What validations of a training log, but its sanity check does not."""
        return [f"val/{name}" for name in (*COLLAPSE, *MIXED)]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()
        self._measures = not trainer.sanity_checking and self._is_measured(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx or not self._measures:
            return
        own = image_batch(batch, WHO)
        backbone: Any = getattr(pl_module, "backbone", pl_module)
        keep = slice(None) if own.index is None else self._seen.keep(own.index)
        with frozen_eval(backbone), trainer.precision_plugin.forward_context():  # of all samples, also repeated ones:
            features = backbone.features(own.image)  # with sharded weights the ranks must run the same passes
            logits = backbone.head(features)
        if self._moments is None:
            self._moments = ClassMoments(logits.shape[1], features.shape[1], features.device)
        self._moments.update(features[keep], own.label[keep])
        self._kept.append((features[keep].float(), logits[keep].float()))
        if self._choice is None:
            self._choice = PanelChoice(self.panel, max(2, self.panel // 2), WHO)
        index = None if own.index is None else own.index[keep]
        self._choice.add(ImageBatch(own.image[keep], own.label[keep], index))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._moments is None:
            return
        backbone: Any = getattr(pl_module, "backbone", pl_module)
        weight = dict(whole_weights(classifier(backbone)))["weight"]
        _refuse_nan(weight, "weights of the classifier")  # whole, so the same on every rank
        geometry, points = self._mixed(trainer, backbone, weight)
        moments = self._moments
        reduced = sum_over_ranks(torch.cat((moments.flat, geometry.flat)))
        moments.flat, geometry.flat = reduced.split((len(moments.flat), len(geometry.flat)))
        _refuse_nan(moments.flat, "validation features")
        means, kept = moments.means, moments.count > 0
        wrong = [nearest_mean_disagreement(f, z, means, kept).sum() for f, z in self._kept]
        scores = collapse_scores(moments, weight)
        scores["nc4"] = sum_over_ranks(torch.stack(wrong).sum().double()) / moments.count.sum()
        scores |= geometry.scores()
        values = {f"val/{name}": value.float() for name, value in scores.items()}
        pl_module.log_dict(values, sync_dist=trainer.world_size > 1, rank_zero_only=False)
        if self._due(trainer):
            drawn = torch.cat(gather_rows(points))
            if trainer.is_global_zero:
                epoch, step = self._moment(trainer)
                title = f"mixed validation examples, epoch {epoch}, step {step}"
                names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
                named = names if names is not None and len(names) == len(weight) else None
                figure = draw_collapse(drawn.cpu(), weight.float().cpu(), geometry, scores, title, named)
                log_figure(trainer, "val/neural_collapse", figure, step)
        self._clear()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"last_measured": self._last_measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._last_measured = state_dict.get("last_measured")

    def _is_measured(self, trainer: Trainer) -> bool:
        """Whether this validation is measured; if so, it counts as the last one that was."""
        if trainer.state.fn != "fit":
            return True
        epoch, last = trainer.current_epoch, self._last_measured
        if last is not None and 0 < epoch - last < self.every_n_epochs and not _is_last_validation(trainer):
            return False
        self._last_measured = epoch
        return True

    def _mixed(self, trainer: Trainer, backbone: nn.Module, weight: Tensor) -> tuple[MixGeometry, Tensor]:
        """The geometry of this rank's share of the pairs, and rows (label, label, λ, feature) for the figure."""
        panel = None if self._choice is None else self._choice.choose(weight.device)
        if panel is None:
            raise RectifyError(f"{WHO}: no validation sample was seen; give the split some.")
        other = _pairs(panel.labels)
        mine = torch.arange(rank(), len(panel), world_size())
        place = mine if len(mine) else torch.zeros(1, dtype=torch.int64)  # every rank runs the same passes
        image, partner = (panel.images[each].to(weight.device) for each in (place, other[place]))
        labels = [panel.labels[each].to(weight.device) for each in (mine, other[mine])]
        lams = [step / (LAMBDAS - 1) for step in range(LAMBDAS)]
        with frozen_eval(backbone), trainer.precision_plugin.forward_context():
            mixed = [backbone.features(lam * image + (1 - lam) * partner).float() for lam in lams]  # type: ignore[operator]
        geometry, rows = MixGeometry(weight.device), []
        for step, features in enumerate(each[: len(mine)] for each in mixed):
            geometry.update(features, *labels, step, weight)
            head = (*(label.float() for label in labels), torch.full_like(features[:, 0], lams[step]))
            rows.append(torch.cat((torch.stack(head, 1), features), 1))
        return geometry, torch.cat(rows)

    def _clear(self) -> None:
        self._moments = None
        self._kept, self._choice = [], None
        self._seen.reset()


def _pairs(label: Tensor) -> Tensor:
    """Return another sample (n,) for each of a panel sorted by its labels (n,), the same on every rank.

    Every second one gets the next sample of its class, if there is one, the others the next in a random cycle; so none
    is paired with itself.
    """
    count = len(label)
    order = torch.randperm(count, generator=keyed_generator("neural_collapse"))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    place = torch.arange(count)
    following = (place + 1) % count
    return torch.where((place % 2 == 0) & (label[following] == label), following, other)


def classifier(backbone: nn.Module) -> nn.Linear:
    """Return the last linear layer of a backbone with `features` and `head`.

    Raises:
        RectifyError: it has no such parts.
    """
    layer = logit_layer(backbone)
    parts = (getattr(backbone, name, None) for name in ("features", "head"))
    if layer is None or not all(map(callable, parts)):
        raise RectifyError(
            f"{WHO}: {type(backbone).__name__} has no features, head and linear layer; "
            "give a backbone with features(image) and a linear head(features)."
        )
    return layer


def _refuse_nan(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise RectifyError(f"{WHO}: some {what} are NaN or infinite; the network has diverged, or its input is broken.")
