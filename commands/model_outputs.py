"""One pass of a model over the splits of an unlearning report."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..collectives import gather_rows
from ..frozen import frozen_eval
from ..metrics import Deduplicator

ALL = ("forget", "retain", "val", "test")


def model_outputs(
    backbone: nn.Module, datamodule: Any, device: torch.device, splits: Sequence[str] = ALL
) -> dict[str, dict[str, Tensor]]:
    """Return `{"forget" | "retain" | "val" | "test": {"logits", "label", "index"}}` on the CPU, in fp32.

    Images are those of evaluation. Every rank calls this and gets all samples, each once, sorted by index.

    Args:
        backbone: a plain module with whole weights; it is moved to `device`.
        datamodule: set up, with a forget request.
    """
    test = datamodule.test_dataloader()
    loaders = {
        "forget": datamodule.forget_dataloader(),
        "retain": datamodule.retain_dataloader(),
        "val": datamodule.val_dataloader(),
        "test": test[0] if isinstance(test, list) else test,
    }
    backbone.to(device)
    with frozen_eval(backbone):
        return {
            name: _of_split(backbone, datamodule, loader, device)
            for name, loader in loaders.items()
            if name in splits and len(loader)
        }


def device_batch(datamodule: Any, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch as the trainer does, through the data module's hooks."""
    batch = datamodule.on_before_batch_transfer(batch, 0)
    return datamodule.on_after_batch_transfer({name: value.to(device) for name, value in batch.items()}, 0)


class DeviceBatches:
    """Evaluation batches on the device, as often as they are asked for."""

    def __init__(self, loader: Any, datamodule: Any, device: torch.device):
        self.loader, self.datamodule, self.device = loader, datamodule, device

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        return (device_batch(self.datamodule, batch, self.device) for batch in self.loader)


def _of_split(backbone: nn.Module, datamodule: Any, loader: Any, device: torch.device) -> dict[str, Tensor]:
    seen, pieces = Deduplicator(), []
    for batch in DeviceBatches(loader, datamodule, device):
        logits = backbone(batch["image"]).float()
        keep = seen.keep(batch["index"])
        pieces.append((logits[keep], batch["label"][keep], batch["index"][keep]))
    columns = [torch.cat(gather_rows(torch.cat(column))).cpu() for column in zip(*pieces, strict=True)]
    order = columns[2].argsort()
    return {name: column[order] for name, column in zip(("logits", "label", "index"), columns, strict=True)}
