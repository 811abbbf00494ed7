"""A controller: a run that is about to be killed saves itself, asks to be queued again, and goes on later."""

import json
import os
import shutil
import signal as signals
import subprocess
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from ..collectives import any_rank, broadcast_object
from ..errors import RectifyError
from ..files import atomic_path
from ._warning_signal import forget, restore, warned, watch
from .resume import NOTE, restarts


class Preempted(SystemExit):
    """Ends a process with code 0: the run is saved and continues from its checkpoint."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Preemption(Callback):
    """On a signal, save between two steps, requeue the Slurm job and end; the restarted run continues from there.

    The signal handler only sets a flag. The ranks agree on it after an optimizer step that no validation follows, when
    all callbacks have acted and the step is logged, and between two epochs. So the warning time of the signal must
    cover a step and a validation. The checkpoint `<run>/preempt-<step>.ckpt` is complete before it gets its name.
    Outside Slurm the run is saved and ends.

    A signal before the first step requeues the job without saving. So does one during a test: a run restarted after its
    last epoch only tests. Outside Slurm a test goes on.

    Every checkpoint of the run carries the config's fingerprint, by which `find_resume` tells this run's checkpoints
    from others. `preempt-*.ckpt` is deleted when training is complete.

    Lightning's own handler, which saves inside the signal, is switched off.

    Args:
        signal: SIGUSR1 or SIGUSR2; the same as in `#SBATCH --signal`.
        max_requeues: so often the run may be interrupted before it ends with an error; it bounds a run that never gets
            anywhere.
        every_n_steps: optimizer steps between two agreements of the ranks. One costs an all-reduce of one number.
        fingerprint: of the config (`config_fingerprint`); the command line fills it in.

    Raises:
        RectifyError: unknown signal, a bound below one, too many requeues, a checkpoint that another process could not
            write, or Slurm refused to requeue the job.
    """

    def __init__(
        self, signal: str = "SIGUSR1", max_requeues: int = 20, every_n_steps: int = 1, fingerprint: str | None = None
    ) -> None:
        if signal not in ("SIGUSR1", "SIGUSR2"):
            raise RectifyError(f"Preemption.signal: {signal!r} cannot be used; choose SIGUSR1 or SIGUSR2.")
        for name, value in (("max_requeues", max_requeues), ("every_n_steps", every_n_steps)):
            if value < 1:
                raise RectifyError(f"Preemption.{name}: {value} is too small; it must be at least 1.")
        self.signal = signals.Signals[signal]
        self.max_requeues = max_requeues
        self.every_n_steps = every_n_steps
        self.fingerprint = fingerprint
        self.requeues = 0
        self._before: Any = None
        self._step = self._agreed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage not in ("fit", "test"):
            return
        before = watch(self.signal)
        self._before = self._before if before is None else before
        environment: Any = getattr(trainer.strategy, "cluster_environment", None)
        if getattr(environment, "auto_requeue", False):
            environment.auto_requeue = False
        if stage == "fit":
            self._leave_if_warned(trainer)  # before the sanity validation

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        late = stage == "fit" and "SLURM_JOB_ID" in os.environ and warned(self.signal)
        if not late:  # a warning after the last step is answered by the test that follows
            forget(self.signal)
            restore(self.signal, self._before)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        _unfollow(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave_if_warned(trainer)
        self._step = self._agreed = trainer.global_step
        # Not on_train_batch_end: callbacks that come later and the module itself have not acted then, and the step is
        # not logged. Lightning has no hook after these.
        _follow(trainer.fit_loop.epoch_loop, lambda: self._after_batch(trainer))
        _follow(trainer.fit_loop, lambda: self._after_epoch(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _unfollow(trainer)
        if trainer.is_global_zero:
            _delete_but(set(), Path(trainer.default_root_dir))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave_test_if_warned(trainer)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._leave_test_if_warned(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "requeues": self.requeues}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.requeues = state_dict["requeues"]

    def _after_batch(self, trainer: Trainer) -> None:
        before, self._step = self._step, trainer.global_step
        if self._step == before or self._step - self._agreed < self.every_n_steps or _validation_followed(trainer):
            return
        self._agreed = self._step
        if any_rank(warned(self.signal)) and not trainer.fit_loop.epoch_loop.done:
            self._stop(trainer)

    def _after_epoch(self, trainer: Trainer) -> None:
        # an epoch that ends with steps alone would be repeated as an empty one, were it saved here
        if trainer.max_steps == -1 and any_rank(warned(self.signal)) and not trainer.fit_loop.done:
            self._stop(trainer)

    def _leave_if_warned(self, trainer: Trainer) -> None:
        if any_rank(warned(self.signal)):
            forget(self.signal)
            self._count()
            self._requeue(trainer, "submit it again")
            raise Preempted("nothing to save yet, to be continued")

    def _leave_test_if_warned(self, trainer: Trainer) -> None:
        if "SLURM_JOB_ID" in os.environ and any_rank(warned(self.signal)):
            forget(self.signal)
            self._count()
            self._requeue(trainer, "submit a test of its checkpoint")
            raise Preempted("training is complete, the test is to be repeated")

    def _stop(self, trainer: Trainer) -> None:
        path = Path(trainer.default_root_dir) / f"preempt-{trainer.global_step}.ckpt"
        forget(self.signal)
        self.requeues += 1
        self._save(trainer, path)
        self._count(0, f"; its state is in {path}")
        self._requeue(trainer, f"submit it again with --ckpt_path {path}")
        raise Preempted(f"saved in {path}, to be continued")

    def _count(self, more: int = 1, state: str = "") -> None:
        """Refuse a requeue too many; those that saved nothing are counted by Slurm alone."""
        interrupted = max(self.requeues + more, restarts() + 1)
        if interrupted > self.max_requeues:
            raise RectifyError(
                f"Preemption.max_requeues: the run was interrupted {interrupted} times{state}. "
                "Ask for a longer time limit, or raise max_requeues."
            )

    def _requeue(self, trainer: Trainer, remedy: str) -> None:
        if "SLURM_JOB_ID" not in os.environ:
            return
        # Slurm ends the old job while requeueing it, and a rank must not die before rank 0 has asked for it
        if threading.current_thread() is threading.main_thread():
            signals.signal(signals.SIGTERM, signals.SIG_IGN)
        trainer.strategy.barrier("Preemption")
        refusal = broadcast_object(_requeue() if trainer.is_global_zero else None)
        if refusal:
            raise RectifyError(f"Slurm did not requeue the job ({refusal}); {remedy}.")

    def _save(self, trainer: Trainer, path: Path) -> None:
        """Save on all ranks, or raise on all of them."""
        part = path.with_name(f".{path.name}.part")
        problem: Exception | None = None
        try:
            trainer.save_checkpoint(part)
        except Exception as error:
            problem = error
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where those who could write wait for this rank
        if problem is None and trainer.is_global_zero:
            try:
                self._give_name(part, path, trainer.global_step, Path(trainer.ckpt_path or path).name)
            except OSError as error:
                problem = error
        if any_rank(problem is not None):
            reason = broadcast_object(str(problem) if problem else None)
            raise problem or RectifyError(
                f"Preemption: {path} could not be saved ({reason or 'see the output of the other processes'}); "
                "the last checkpoint is whole."
            )
        rank_zero_info(f"Preemption: saved step {trainer.global_step} in {path}")

    def _give_name(self, part: Path, path: Path, step: int, resumed: str) -> None:
        if part.is_dir() and not (part / NOTE).is_file():  # its strategy knows no notes, and may take no file more
            with atomic_path(path.with_suffix(".json")) as file:
                file.write_text(json.dumps({"fingerprint": self.fingerprint, "step": step}))
        part.rename(path)
        _delete_but({path.name, resumed}, path.parent)  # the command line of the job may name what it resumed from


def _follow(loop: Any, act: Callable[[], None]) -> None:
    """Act after each `on_advance_end` of a loop, which closes a batch or an epoch."""
    original = loop.on_advance_end

    def both(*arguments: Any) -> None:
        original(*arguments)
        act()

    loop.on_advance_end = both


def _unfollow(trainer: Trainer) -> None:
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop):
        vars(loop).pop("on_advance_end", None)


def _validation_followed(trainer: Trainer) -> bool:
    """Whether the epoch ends or a validation came after this batch; Lightning would count it again after a resume."""
    interval = trainer.val_check_batch
    if trainer.is_last_batch or interval in (None, float("inf")):
        return trainer.is_last_batch
    loop = trainer.fit_loop
    return ((loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx) + 1) % interval == 0


def _requeue() -> str:
    """Ask Slurm to requeue this job; return why it refused, or nothing."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def _delete_but(kept: Collection[str], folder: Path) -> None:
    for old in folder.glob("preempt-*.ckpt"):
        if old.name not in kept:
            with suppress(OSError):  # rank 0 alone is here and must not leave the others
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)
