"""The mask of a run's forget set, made in `setup`: weights are whole there, and ranks and data are ready."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import RunningStage
from torch import nn

from ..collectives import broadcast_object
from ..errors import RectifyError
from ..unlearning.density import Scope, saliency_masks
from ..unlearning.parameter_names import Kind
from ..unlearning.weight_mask import WeightMask, architecture
from ..unlearning.weight_saliency import saliency_scores


def mask_of_forget_set(
    trainer: Trainer,
    pl_module: LightningModule,
    network: nn.Module,
    density: float,
    *,
    scope: Scope,
    include: Sequence[Kind],
    abs_order: Literal["after", "before"],
) -> WeightMask:
    """Score `network` on `datamodule.forget_dataloader()`; the mask is rank 0's on every rank.

    Raises:
        RectifyError: the data have no forget set, or an empty one.
    """
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "forget_dataloader"):
        found = f"{type(data).__name__} has none" if data is not None else "there is no datamodule"
        raise RectifyError(
            f"WeightSaliency reads datamodule.forget_dataloader(), and {found}; "
            "use ShardDataModule with data.forget, or give mask: FILE."
        )
    device = trainer.strategy.root_device
    with _evaluating(trainer), _on_device(network, device):
        batches = (
            pl_module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)
            for batch in data.forget_dataloader()  # type: ignore[union-attr]
        )
        scores = saliency_scores(network, batches, include=include, abs_order=abs_order)
        settings = {"include": ",".join(include), "abs_order": abs_order, "loss": "cross_entropy"}
        made = architecture(network)
        (mask,) = saliency_masks(scores, [density], architecture=made, scope=scope, settings=settings)
    return broadcast_object(mask)


def resumes_from_checkpoint() -> bool:
    """Whether the fit that is being set up goes on from a checkpoint, which Lightning tells nobody before reading it.

    Where this cannot be found out the answer is no, and the checkpoint's mask replaces the one made in vain.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is Trainer._run.__code__:
            return frame.f_locals.get("ckpt_path") is not None
        frame = frame.f_back
    return False


@contextmanager
def _evaluating(trainer: Trainer) -> Iterator[None]:
    """Let the data know that nothing is trained, so that they do not augment."""
    stage, trainer.state.stage = trainer.state.stage, RunningStage.VALIDATING
    try:
        yield
    finally:
        trainer.state.stage = stage


@contextmanager
def _on_device(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Weights are still on the CPU in `setup`; afterwards the strategy decides what of them goes where."""
    if device.type == "cpu" or {parameter.device for parameter in network.parameters()} == {device}:
        yield
        return
    network.to(device)
    try:
        yield
    finally:
        network.to("cpu")
