"""What a run leaves to be repeated by: its resolved config, command line, code version and data."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from .. import __version__
from ..callbacks import Preempted
from ..files import atomic_path, sha256
from .run_folder import RECORD

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "timm", "webdataset", "deepspeed")


class Provenance(SaveConfigCallback):
    """Writes `config.yaml` and `run.json` into the run folder when training starts, after a checkpoint was restored.

    A resume that fails before leaves both as they were; one with another config keeps the old one beside the new.
    """

    began = False
    """Whether a training batch was reached."""

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = True

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: the parent calls this before a checkpoint is restored."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        text, target = self.parser.dump(self.config, skip_none=False), folder / "config.yaml"
        if target.is_file() and target.read_text() != text:
            target.replace(folder / f"config-before-step-{trainer.global_step}.yaml")
        with atomic_path(target) as path:
            path.write_text(text)
        write_record(folder, {**describe(trainer), "status": "running"})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero and self.began and trainer.state.fn == "fit":
            stopped = isinstance(exception, Preempted | KeyboardInterrupt)
            status = "interrupted" if stopped else "failed"
            update_record(Path(trainer.default_root_dir), status=status, error=str(exception)[:500])


def describe(trainer: Trainer) -> dict[str, Any]:
    """Command, code, versions, machine and data of this run, as plain values."""
    manifest = getattr(getattr(trainer, "datamodule", None), "manifest_path", None)
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "lightning_rectify": __version__,
        "git": _git_hash(),
        "python": platform.python_version(),
        "packages": _versions(),
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "manifest": str(manifest) if manifest else None,
        "manifest_sha256": sha256(Path(manifest)) if manifest else None,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    with atomic_path(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=2))


def update_record(folder: Path, **changes: Any) -> None:
    write_record(folder, {**json.loads((folder / RECORD).read_text()), **changes})


def mark_finished(folder: Path) -> None:
    update_record(folder, status="finished", ended=datetime.now(UTC).isoformat(timespec="seconds"))


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git_hash() -> str | None:
    """The commit of this package's checkout, with `+` if it has changes; None for an installed copy."""
    try:
        command = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty=+",
            "--abbrev=40",
            "--exclude=*",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
