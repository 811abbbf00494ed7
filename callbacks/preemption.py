"""A controller: a run that is about to be killed saves itself, asks to be queued again, and goes on later."""

import hashlib
import json
import os
import shutil
import signal as signals
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from ..collectives import any_rank, broadcast_object
from ..errors import RectifyError
from ..files import atomic_path

IRRELEVANT = frozenset(
    {
        "config",
        "ckpt_path",
        "weights_only",
        "name",
        "runs_dir",
        "trainer.default_root_dir",
        "trainer.logger",
        "trainer.enable_progress_bar",
        "trainer.enable_model_summary",
        "trainer.log_every_n_steps",
        "trainer.num_nodes",
        "trainer.devices",
    }
)
"""Keys of a config that do not change what is trained: a resume may set them differently."""


class Preempted(SystemExit):
    """Ends a process with code 0: the run is saved and continues from its checkpoint."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Preemption(Callback):
    """On a signal, save between two steps, requeue the Slurm job and end; the restarted run continues from there.

    The signal handler only sets a flag. The ranks agree on it after an optimizer step, never inside an accumulated one
    and never right before a validation, so the warning time of the signal must cover a step and a validation. The
    checkpoint `<run>/preempt-<step>.ckpt` is complete before it gets its name. Outside Slurm the run is saved and ends.

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
        RectifyError: unknown signal, a bound below one, too many requeues, or Slurm refused to requeue the job.
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
        self._received = False
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        environment: Any = getattr(trainer.strategy, "cluster_environment", None)
        if getattr(environment, "auto_requeue", False):
            environment.auto_requeue = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not earlier: the trainer remembers the handlers it finds only now, and restores them when it ends
        self._received, self._step = False, trainer.global_step
        if threading.current_thread() is threading.main_thread():
            signals.signal(self.signal, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        self._received = True  # loader workers inherit this handler and lose nothing by it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._step = self._step, trainer.global_step
        if self._step == before or self._step % self.every_n_steps or _validation_follows(trainer, batch_idx):
            return
        if any_rank(self._received):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            _delete_but(None, Path(trainer.default_root_dir))

    def state_dict(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "requeues": self.requeues}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.requeues = state_dict["requeues"]

    def _stop(self, trainer: Trainer) -> None:
        self.requeues += 1
        path = self._save(trainer)
        if self.requeues > self.max_requeues:
            raise RectifyError(
                f"Preemption.max_requeues: the run was interrupted {self.requeues} times; its state is in {path}. "
                "Ask for a longer time limit, or raise max_requeues."
            )
        if "SLURM_JOB_ID" in os.environ:
            # Slurm ends the old job while requeueing it, and a rank must not die before rank 0 has asked for it
            signals.signal(signals.SIGTERM, signals.SIG_IGN)
            trainer.strategy.barrier("Preemption")
            refusal = broadcast_object(_requeue() if trainer.is_global_zero else None)
            if refusal:
                raise RectifyError(
                    f"Slurm did not requeue the job ({refusal}); submit it again with --ckpt_path {path}."
                )
        raise Preempted(f"saved in {path}, to be continued")

    def _save(self, trainer: Trainer) -> Path:
        folder = Path(trainer.default_root_dir)
        path = folder / f"preempt-{trainer.global_step}.ckpt"
        part = folder / f".{path.name}.part"
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            if part.is_dir():  # only its strategy can read it, and its files are sealed: the note stands beside it
                note = {"fingerprint": self.fingerprint, "global_step": trainer.global_step}
                with atomic_path(path.with_suffix(".json")) as file:
                    file.write_text(json.dumps(note))
            part.rename(path)
            _delete_but(path, folder)
        trainer.strategy.barrier("Preemption.save")
        rank_zero_info(f"Preemption: saved step {trainer.global_step} in {path}")
        return path


def config_fingerprint(config: str | Mapping[str, Any]) -> str:
    """SHA-256 over a resolved config (YAML text or mapping), less the keys that do not change what is trained."""
    tree = yaml.safe_load(config) if isinstance(config, str) else config
    return hashlib.sha256(json.dumps(_relevant(tree, ""), sort_keys=True, default=str).encode()).hexdigest()


def find_resume(run_folder: Path | str, fingerprint: str) -> Path | None:
    """Return the newest checkpoint this run can continue from: one saved on a signal, or a `last.ckpt`; else None.

    Raises:
        RectifyError: the folder holds the interrupted run of another configuration.
    """
    found: dict[Path, int] = {}
    folder = Path(run_folder)
    for path in [*folder.glob("preempt-*.ckpt"), *folder.rglob("last*.ckpt")]:
        note = _read_note(path)
        if note is None:
            continue
        if note["fingerprint"] == fingerprint:
            found[path] = note["global_step"]
        elif path.name.startswith("preempt-"):
            raise RectifyError(
                f"{path} was saved by another configuration; choose another --name, restore that configuration, or "
                "delete the file."
            )
    return max(found, key=lambda path: found[path], default=None)


def _read_note(path: Path) -> dict[str, Any] | None:
    """Fingerprint and step of a checkpoint; None if it has none or cannot be read."""
    try:
        if path.is_dir():
            return json.loads(path.with_suffix(".json").read_text())
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        state = checkpoint["callbacks"][Preemption.__qualname__]
        return {"fingerprint": state["fingerprint"], "global_step": checkpoint["global_step"]}
    except Exception as error:  # a half-written, old or foreign file is no reason to stop
        if not isinstance(error, KeyError | FileNotFoundError):
            rank_zero_warn(f"{path} cannot be read and is passed over ({error})")
        return None


def _relevant(tree: Any, prefix: str) -> Any:
    if isinstance(tree, Mapping):
        keys = {str(key): f"{prefix}{key}" for key in tree}
        return {key: _relevant(tree[key], f"{path}.") for key, path in keys.items() if path not in IRRELEVANT}
    return [_relevant(item, f"{prefix}[].") for item in tree] if isinstance(tree, list | tuple) else tree


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the epoch ends or a validation starts after this batch; Lightning would leave it out after a resume."""
    interval = trainer.val_check_batch
    if trainer.is_last_batch or interval in (1, None, float("inf")):
        return trainer.is_last_batch
    return 0 in ((batch_idx + 1) % interval, (trainer.fit_loop.total_batch_idx + 1) % interval)


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


def _delete_but(kept: Path | None, folder: Path) -> None:
    for old in folder.glob("preempt-*.ckpt"):
        if old != kept:
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
            old.with_suffix(".json").unlink(missing_ok=True)
