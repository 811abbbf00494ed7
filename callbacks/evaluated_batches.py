"""Batches of validation and test, handed on alike."""

from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer

Stage = Literal["val", "test"]


class EvaluatedBatches(Callback):
    """Base of observers that treat both evaluations alike: every batch of them comes to `_take`."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._take(trainer, pl_module, outputs, batch, dataloader_idx, "val")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._take(trainer, pl_module, outputs, batch, dataloader_idx, "test")

    def _take(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, loader: int, stage: Stage
    ) -> None:
        raise NotImplementedError
