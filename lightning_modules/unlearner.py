"""A classifier that forgets a part of what it was trained on."""

from typing import Any, Literal

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones.backbone import Backbone
from ..errors import RectifyError
from ..losses.objective import Objective
from ..unlearning.edits.edit import Edit
from .classifier import Classifier
from .rectifier import Compile
from .schedules import Schedule


class Unlearner(Classifier):
    """Wraps a trained backbone and the method that makes it forget; evaluates and logs as a Classifier.

    Args:
        backbone: with the weights to start from (`--init_from`).
        method: an unlearning objective, trained on the stream of `data.forget`, or a training-free edit.
        optimizer: without decay of its own where a weight mask is used.
        schedule: of the learning rate.
        bn_stats: `freeze` keeps batch-norm layers in evaluation mode while training, so that neither their statistics
            nor what passes them depend on forgotten samples; `update` trains as usual.
        compile: compile the backbone's forward.
        objective: an objective may also be given under this name, as the shipped configs do; an edit as `method`
            takes its place.

    Raises:
        RectifyError: no method, two of them, or one that does not unlearn.
    """

    unlearns = True

    def __init__(
        self,
        backbone: Backbone,
        method: Objective | Edit | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        schedule: Schedule | LRSchedulerCallable | None = None,
        bn_stats: Literal["update", "freeze"] = "update",
        compile: Compile = False,
        objective: Objective | None = None,
    ):
        if method is None and objective is None:
            raise RectifyError(
                "model.method is not set; name one, such as RandomLabel, or add -c objective/random_label."
            )
        if isinstance(method, Objective) and objective is not None:
            raise RectifyError(
                "model.method and model.objective both name an objective; give one, or set model.objective to null."
            )
        chosen = method or objective
        trained = chosen if isinstance(chosen, Objective) else None
        if trained is not None and not trained.needs_retain:
            raise RectifyError(
                f"model.objective is {type(trained).__name__}, which does not unlearn; choose one such as RandomLabel."
            )
        super().__init__(backbone, trained, optimizer, schedule, compile)
        self.edit: Any = None if trained is not None else chosen
        self.bn_stats = bn_stats

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.edit is not None:
            raise RectifyError(f"{type(self.edit).__name__} edits weights without training; use the command unlearn.")
        super().setup(stage)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.bn_stats == "freeze":
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()  # at each batch: whatever evaluated in between may have set the mode back
