"""What happens to a batch on its way to the device: bytes become floats in [0, 1], training images are augmented."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from .augmentation import Augmentation, augmented

PARTS = ("forget", "retain")


class BatchTransfer(pl.LightningDataModule):
    """The transfer hooks of a data module.

    A batch is a dict with `image`, or one of an unlearning step, `{"forget": batch | None, "retain": batch | None}`,
    whose parts are treated alike.
    """

    augment: list[Augmentation]

    def __init__(self) -> None:
        super().__init__()
        self._views: dict[str, Tensor] = {}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Keep the keys of the views on the CPU, where the augmentations draw."""
        self._views = {}

        def without_view(part: dict[str, Any], name: str) -> dict[str, Any]:
            if "view" in part:
                self._views[name] = part["view"]
            return {key: value for key, value in part.items() if key != "view"}

        return _each_part(batch, without_view)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment while training, then turn bytes into float in [0, 1]; on the device."""
        return _each_part(batch, self._as_floats)

    def _as_floats(self, part: dict[str, Any], name: str) -> dict[str, Any]:
        trainer, image, views = self.trainer, part["image"], self._views.get(name)
        if views is not None and trainer is not None and trainer.training:
            objective = getattr(trainer.lightning_module, "objective", None)
            image = augmented(image, views, self.augment, getattr(objective, "views", 1))
        return {**part, "image": image.float() / 255 if image.dtype == torch.uint8 else image}


def _each_part(batch: Any, act: Callable[[dict[str, Any], str], dict[str, Any]]) -> Any:
    if not isinstance(batch, dict):
        return batch
    if "image" in batch:
        return act(batch, "")
    if not set(batch) <= set(PARTS):
        return batch
    return {name: act(part, name) if isinstance(part, dict) else part for name, part in batch.items()}
