"""A classifier trained under any objective."""

from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ..backbones.backbone import Backbone
from ..errors import RectifyError
from ..losses.empirical_risk import EmpiricalRisk
from ..losses.objective import Objective
from ..metrics import Deduplicator, NegativeLogLikelihood
from .rectifier import Compile, Rectifier
from .schedules import Schedule


class Classifier(Rectifier):
    """Wraps a backbone and an objective; counts every evaluated sample once, over all ranks.

    Logs `train/loss`, `train/accuracy`, `train/<term>`, and `loss` (mean cross-entropy) and `accuracy` under `val/` and
    `test/`. Evaluation steps return `{"logits", "label", "index"}` without duplicates, for callbacks to read.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | LRSchedulerCallable | None = None,
        compile: Compile = False,
    ):
        super().__init__(backbone, objective or EmpiricalRisk(), optimizer, schedule, compile)
        self._seen = Deduplicator()
        self._scores: MetricCollection | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        head = getattr(self.backbone, "classes", None)
        data = getattr(getattr(self.trainer, "datamodule", None), "classes", None)
        if head is not None and data is not None and data > head:
            raise RectifyError(
                f"model.backbone: the head has {head} classes and the data {data}; set classes: ${{data.classes}}."
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"probability": self(batch["image"]).softmax(1), "index": batch["index"]}

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _evaluate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = self(batch["image"])
        keep = self._seen.keep(batch["index"])
        kept = {"logits": logits[keep], "label": batch["label"][keep], "index": batch["index"][keep]}
        if self._scores is None:
            scores = {
                "loss": NegativeLogLikelihood(),
                "accuracy": MulticlassAccuracy(logits.shape[1], average="micro", validate_args=False),
            }
            self._scores = MetricCollection(scores, compute_groups=False).to(logits.device)
        if len(kept["label"]):
            self._scores.update(kept["logits"], kept["label"])
        return kept

    def _log_scores(self, stage: str) -> None:
        if self._scores is not None:
            scores = {f"{stage}/{name}": value for name, value in self._scores.compute().items()}
            self.log_dict(scores, prog_bar=stage == "val")  # already reduced over ranks
            self._scores.reset()
        self._seen.reset()
