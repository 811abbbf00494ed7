"""What an observer needs of a batch, whoever's module and data they are."""

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from ..errors import RectifyError
from ..frozen import frozen_eval
from ..randomness import fold


@dataclass
class ImageBatch:
    """Images (B, C, H, W), labels (B,) int64 and, if the data give them, the samples' indices (B,) int64."""

    image: Tensor
    label: Tensor
    index: Tensor | None = None


def image_batch(batch: Any, who: str) -> ImageBatch:
    """Read a dict with `image` and `label` (and `index`) or a tuple (image, label, …).

    Raises:
        RectifyError: the batch is something else; `who` is the callback to name.
    """
    parts: tuple[Any, Any, Any] | None = None
    if isinstance(batch, dict) and "image" in batch and "label" in batch:
        parts = batch["image"], batch["label"], batch.get("index")
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        parts = batch[0], batch[1], None
    if parts is None or not isinstance(parts[0], Tensor) or not isinstance(parts[1], Tensor) or parts[1].ndim != 1:
        raise RectifyError(
            f"{who} reads batches that are a dict with image and label (n,), or a tuple (image, label); "
            f"this one is a {type(batch).__name__}{_keys(batch)}."
        )
    return ImageBatch(*parts)


def _keys(batch: Any) -> str:
    return f" with {', '.join(map(str, batch))}" if isinstance(batch, dict) else ""


def forward_logits(trainer: Trainer, pl_module: LightningModule, image: Tensor, who: str) -> Tensor:
    """Return the module's logits (n, K) under the trainer's precision; the module is left as it was found.

    Raises:
        RectifyError: `pl_module(image)` returns something else.
    """
    with frozen_eval(pl_module), trainer.precision_plugin.forward_context():
        logits = pl_module(image)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(image):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RectifyError(
            f"{who}: {type(pl_module).__name__}(image) returned {found}, not logits ({len(image)}, K); "
            "return {'logits': …, 'label': …} from the evaluation step."
        )
    return logits


def step_logits(outputs: Any) -> tuple[Tensor, Tensor] | None:
    """Return the logits and labels an evaluation step handed out, None if it did not."""
    if not isinstance(outputs, dict):
        return None
    logits, label = outputs.get("logits"), outputs.get("label")
    if isinstance(logits, Tensor) and isinstance(label, Tensor):
        return logits, label
    return None


def sample_ids(batch: ImageBatch) -> list[int]:
    """Return a stable id per sample: its index or, without one, a hash of up to 256 of its pixels and its label."""
    if batch.index is not None:
        return batch.index.tolist()
    flat = batch.image.detach().flatten(1)
    probe = flat[:, :: max(1, flat.shape[1] // 256)][:, :256].to("cpu", torch.float32).numpy()
    return [fold(row.tobytes().hex(), label) for row, label in zip(probe, batch.label.tolist(), strict=True)]
