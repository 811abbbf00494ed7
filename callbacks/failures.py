"""What a crash means and what to change: one sentence for failures whose own message says neither."""

import errno
import re
import traceback

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

_PEER = ("connection closed by peer", "connection reset by peer", "connection refused", "socket closed", "broken pipe")
_WAITING = ("timed out waiting", "watchdog caught collective operation timeout", "wait timeout after")
_WORKER = ("exited unexpectedly", "killed by signal")
_IN_WORKER = re.compile(r"caught \w+ in dataloader worker process")
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain_failure(error: BaseException) -> str | None:
    """Return one sentence that names the cause and the remedy of a known failure of the machine; None for any other.

    Known are: memory exhausted (on the device and on the host), a process of the run that died or hangs, a loader
    worker that died, and a full disk. The last line of the error itself stands behind the sentence.
    """
    cause = _cause(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{cause} ({type(error).__name__}{': ' + lines[-1] if lines else ''})" if cause else None


def _cause(error: BaseException) -> str | None:
    text = str(error).lower()
    if _IN_WORKER.match(text):  # the user's code failed there; its traceback, which is in the text, proves nothing
        text = text.rstrip().rpartition("\n")[2]
    if isinstance(error, OSError) and error.errno in _FULL:
        where = error.filename or "a file of the run"
        return f"The disk is full or its quota is used up ({where}): free space, or choose another folder."
    if not isinstance(error, RuntimeError | MemoryError | OSError | EOFError):
        return None
    if ("dataloader worker" in text and _says(text, _WORKER)) or _met_in_multiprocessing(error):
        return (
            "A loader worker died, often because memory ran out: lower data.workers or data.batch_size, and in a "
            "container look at the size of /dev/shm."
        )
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _says(text, _MEMORY):
        return (
            "Out of memory: halve data.batch_size and double trainer.accumulate_grad_batches, set "
            "trainer.precision=bf16-mixed, or shard the model (configs/trainer/fsdp2.yaml, zero2.yaml)."
        )
    if isinstance(error, OSError | EOFError) or _IN_WORKER.match(str(error).lower()):
        return None
    if isinstance(error, DistBackendError | DistNetworkError | DistStoreError) or _says(text, _PEER + _WAITING):
        happened = "does not answer" if _says(text, _WAITING) else "died"
        return (
            f"Another process of the run {happened}: its own output, further up or in its own file, holds the reason; "
            "all processes end now, and the last checkpoint is whole."
        )
    return None


class ExplainFailure(Callback):
    """Add to an exception of known cause the sentence that says what to change; the exception itself goes on."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        explained = _cause(exception)
        if explained:
            exception.add_note(f"{explained} (step {trainer.global_step}, rank {trainer.global_rank})")


def _met_in_multiprocessing(error: BaseException) -> bool:
    """Whether a pipe to another process broke: a worker that died while it handed over a batch."""
    if not isinstance(error, ConnectionError | EOFError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any("multiprocessing" in frame.filename for frame in frames)


def _says(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)
