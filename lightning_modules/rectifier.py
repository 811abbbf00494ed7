"""What every LightningModule here shares: a backbone, an objective, the optimizer, and the terms in the log."""

import math
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from ..backbones.backbone import Backbone, check_backbone
from ..collectives import rank
from ..errors import RectifyError
from ..losses.objective import Context, Objective, Step, tell_class_counts
from ..randomness import global_seed
from ..strategies.fsdp2 import shard
from ..strategies.guard import check
from .cost import cost_line
from .schedules import Schedule
from .term_means import TermMeans
from .timeline import Timeline

CHECKPOINT_FORMAT = 1
Compile = bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Rectifier(LightningModule):
    """Trains a backbone under an objective.

    Nothing is saved as a hyper-parameter: those in a checkpoint would silently beat the command line.

    Args:
        backbone: any module with `features`, `head` and `forward = head(features(image))`.
        objective: what is minimised.
        optimizer: a callable from parameters to an optimizer (in YAML a class_path without `params`).
        schedule: one of our schedules (by share of training, every step), or any of torch (every epoch).
        compile: compile the backbone's forward with `torch.compile`, in place, so that checkpoint keys stay the same; a
            name is a mode of it (`reduce-overhead` records CUDA graphs). Attacks run through it too.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | LRSchedulerCallable | None = None,
        compile: Compile = False,
    ):
        super().__init__()
        check_backbone(backbone)
        self.backbone: nn.Module = backbone
        self.objective = objective
        self._optimizer = optimizer
        self._schedule = schedule
        self._compile = compile
        self._prepared = False
        self._timeline = Timeline()
        self.last_terms: dict[str, Tensor | float] = {}
        self._recent = TermMeans()
        self._epoch = TermMeans()

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone(image)

    def setup(self, stage: str) -> None:
        if self._prepared:
            return
        self._prepared = True
        tell_class_counts(self.objective, getattr(getattr(self.trainer, "datamodule", None), "class_counts", None))
        self.objective.setup(self.backbone)
        if self._compile:
            self.backbone.compile(mode=None if self._compile is True else self._compile)
        check(self.trainer, self)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and self.device_mesh is not None:
            shard(self.backbone, self.device_mesh)
            shard(self.objective, self.device_mesh)

    def on_fit_start(self) -> None:
        check(self.trainer, self)  # again, because some rules are about the optimizer

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trained:
            raise RectifyError("model: no parameter requires a gradient; unfreeze a part of the backbone.")
        try:
            optimizer = self._optimizer(trained)
        except (TypeError, ValueError) as error:
            raise RectifyError(f"model.optimizer: {error}.") from error
        if self._schedule is None:
            return optimizer
        if isinstance(self._schedule, Schedule):
            self._timeline.whole(self.trainer.estimated_stepping_batches)
            stepped = self._schedule.build(optimizer, self._timeline)
            return [optimizer], [{"scheduler": stepped, "interval": "step"}]
        scheduler = self._schedule(optimizer)
        entry: dict[str, Any] = {"scheduler": scheduler, "interval": "epoch"}
        if isinstance(scheduler, ReduceLROnPlateau):
            entry["monitor"] = scheduler.monitor
        return [optimizer], [entry]

    def context(self, batch_idx: int) -> Context:
        """Where training stands at this batch; the key makes random numbers differ by rank and by micro-batch."""
        trainer = self.trainer
        progress = self._timeline.progress(trainer.global_step)
        return Context(trainer.global_step, progress, (global_seed(), rank(), trainer.current_epoch, batch_idx))

    def on_train_start(self) -> None:
        self._timeline.whole(self.trainer.estimated_stepping_batches)
        self._follow_resized_data()
        optimizers = [type(optimizer).__name__ for optimizer in self.trainer.optimizers]
        rank_zero_info(cost_line(self.backbone, self.objective, optimizers, self._timeline.total))

    def _follow_resized_data(self) -> None:
        """Restart the timeline if the steps done are not those this world and batch size would have taken."""
        trainer = self.trainer
        standing = getattr(getattr(trainer, "datamodule", None), "standing", None)
        if not trainer.global_step or standing is None or trainer.max_steps != -1:
            return
        if trainer.limit_train_batches not in (None, 1.0) or trainer.max_epochs in (None, -1):  # type: ignore[attr-defined]
            return
        accumulate, epochs = trainer.accumulate_grad_batches, trainer.max_epochs
        of_an_epoch = math.ceil(standing.length / accumulate)
        share = (standing.epoch + standing.share) / epochs
        if abs(trainer.global_step - share * of_an_epoch * epochs) > 1:
            left = math.ceil(standing.left / accumulate) + (epochs - standing.epoch - 1) * of_an_epoch
            self._timeline.restart(trainer.global_step, share, left)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        step = self.objective(self.backbone, batch, self.context(batch_idx))
        self._record(step, batch, batch_idx)
        return step.loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # here and not in on_train_batch_end, where a checkpoint callback may already have saved
        self.objective.after_step(self.backbone)

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"train/{name}": value for name, value in self._epoch.compute().items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        means = {"epoch": self._epoch.state_dict(), "recent": self._recent.state_dict()}
        checkpoint["rectify"] = {"format": CHECKPOINT_FORMAT, "means": means}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint.get("rectify", {"format": CHECKPOINT_FORMAT})
        if own["format"] != CHECKPOINT_FORMAT:
            raise RectifyError(
                f"The checkpoint has format {own['format']} and this version reads {CHECKPOINT_FORMAT}; "
                "start from its weights with --init_from, or use the version in its run.json."
            )
        if self.trainer.state.fn == "fit" and "means" in own:
            self._epoch.load_state_dict(own["means"]["epoch"], self.device)
            self._recent.load_state_dict(own["means"]["recent"], self.device)

    def _record(self, step: Step, batch: dict[str, Any], batch_idx: int) -> None:
        terms: dict[str, Tensor | float] = {"loss": step.loss.detach(), **step.terms}
        if step.logits is not None and step.target is not None and step.logits.ndim == 2:
            terms["accuracy"] = (step.logits.detach().argmax(1) == step.target).float().mean()
        self.last_terms = {f"train/{name}": value for name, value in terms.items()}  # what FiniteLoss names
        samples = _batch_size(batch)
        self._recent.update(terms, samples, step.loss.device)
        self._epoch.update(terms, samples, step.loss.device)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (batch_idx + 1) % every == 0:
            # every rank reaches this at the same batch, so the one collective inside is safe
            recent = {f"train/{name}_step": value for name, value in self._recent.compute().items()}
            self.log_dict(recent, on_step=True, on_epoch=False, prog_bar=True)


def _batch_size(batch: dict[str, Any]) -> int:
    """Samples in a batch; in an unlearning step those of its parts together."""
    if "image" in batch:
        return len(batch["image"])
    return sum(_batch_size(part) for part in batch.values() if isinstance(part, dict))
