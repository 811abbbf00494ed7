"""The images a study explains: the same whatever the batch size, from a data module of ours or of somebody else."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from ..callbacks.batches import image_batch
from ..callbacks.panel import Panel, PanelChoice
from ..errors import RectifyError

CHUNK = 16


def choose_images(datamodule: Any, sizes: Sequence[int], device: torch.device) -> list[Panel]:
    """Return a panel of each size, stratified by class, of the test images or else of those of validation.

    Args:
        datamodule: a LightningDataModule or what has its methods; it is prepared and set up for what is read.
        sizes: with fewer images in the data a panel is shorter, and that is said.
        device: where the data module's transfer hooks work.

    Raises:
        RectifyError: there are no such images, or they are not float (B, C, H, W) of one size.
    """
    datamodule.prepare_data()
    for stage, name in (("test", "test_dataloader"), ("validate", "val_dataloader")):
        datamodule.setup(stage)
        choices = [PanelChoice(size) for size in sizes]
        seen = 0
        for batch in _batches(datamodule, name):
            moved = _on_device(datamodule, batch, device)
            found = image_batch(moved, "explain")
            if found.image.ndim != 4 or not found.image.is_floating_point():
                raise RectifyError(
                    f"explain: the data module gives {found.image.dtype} {tuple(found.image.shape)}, not float images "
                    "(B, C, H, W); a saliency map needs pixels."
                )
            seen += len(found.image)
            for choice in choices:
                choice.add(found)
        panels = [panel for choice in choices if (panel := choice.choose(torch.device("cpu"))) is not None]
        if len(panels) == len(sizes):
            if len(panels[-1]) < sizes[-1]:
                rank_zero_info(
                    f"explain: {len(panels[-1])} images, balanced by class, stand for the {sizes[-1]} asked for; the "
                    f"data hold {seen}."
                )
            return panels
    raise RectifyError("explain: the data hold no test or validation images.")


def chunks(panel: Panel, device: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield places (n,), images (n, C, H, W) and labels (n,) on the device, a few at a time."""
    for place in torch.arange(len(panel)).split(CHUNK):
        yield place, panel.images[place].to(device), panel.labels[place].to(device)


def _batches(datamodule: Any, name: str) -> Any:
    """The batches of a loader; of several the first one's; none where the data module has no such loader."""
    try:
        loader = getattr(datamodule, name)()
    except (MisconfigurationException, NotImplementedError, AttributeError):
        if name in vars(type(datamodule)):  # it has one, which fails
            raise
        return ()
    if isinstance(loader, list | tuple):
        loader = loader[0] if loader else ()
    return () if loader is None else loader  # read, not asked for its length: a stream has none


def _on_device(datamodule: Any, batch: Any, device: torch.device) -> Any:
    """A batch as the trainer would hand it over, through the hooks of the data module."""
    batch = datamodule.on_before_batch_transfer(batch, 0)
    batch = datamodule.transfer_batch_to_device(batch, device, 0)
    return datamodule.on_after_batch_transfer(batch, 0)
