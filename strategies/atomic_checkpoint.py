"""Checkpoint files that are whole or absent, and hold tensors and plain values only."""

from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from ..errors import RectifyError
from ..files import atomic_path


class AtomicCheckpoint(TorchCheckpointIO):
    """Write a checkpoint beside its target and rename it; read it without unpickling code.

    Lightning writes into the system's temporary folder and moves the file: across file systems the move is a copy,
    which a kill tears, and nothing is flushed to the disk. DDP and FSDP2 write through this; DeepSpeed, which writes
    folders, does not.

    Raises:
        RectifyError: on saving, the folder cannot be written or the disk is full, and the file before is untouched; on
            loading, the path is a URL, a folder or missing, the file is torn, or it holds more than tensors and plain
            values.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        _refuse_url(path)
        path = Path(path)
        for other in path.parent.iterdir() if path.parent.is_dir() else ():
            if other.name.startswith(f".{path.name}."):  # what a kill left behind, as one rank alone writes a file
                other.unlink(missing_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # the archive writer hides what the file system said
                raise _cause(error) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read_file(path, map_location, weights_only is not False)


def read_file(path: Any, map_location: Any = "cpu", weights_only: bool = True, mmap: bool = False) -> dict[str, Any]:
    """Load a checkpoint file, or raise RectifyError as `AtomicCheckpoint` does."""
    _refuse_url(path)
    if Path(path).is_dir():
        raise RectifyError(
            f"The checkpoint {path} is a sharded folder; resume it with the strategy DeepSpeed that wrote it, or start "
            "with --init_from from the weights file that lightning_rectify.strategies.consolidate makes of it."
        )
    if not Path(path).is_file():
        raise RectifyError(f"The checkpoint {path} does not exist.")
    try:
        return torch.load(path, map_location=map_location, weights_only=weights_only, mmap=mmap)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RectifyError(f"The checkpoint {path} cannot be read ({reason}); choose another one.") from error


def _refuse_url(path: Any) -> None:
    if "://" in str(path):
        raise RectifyError(f"{path}: checkpoints are not read from or written to URLs; copy the file to this machine.")


def _cause(error: BaseException) -> BaseException:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error
