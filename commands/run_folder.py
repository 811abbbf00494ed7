"""The folder of a run: new for a new run, the same for a resume or a requeue."""

import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import RectifyError
from ..files import atomic_path, safe_name
from .launch import Launch

FOLDER_VARIABLE = "RECTIFY_RUN_FOLDER"
RECORD = "run.json"
LATEST = ("last", "best")  # words that stand for a checkpoint of the newest run


@dataclass
class RunFolder:
    """A run's folder.

    Attributes:
        path: absolute, because a checkpoint callback that resumes compares its folder as text.
        made: this process made it, so it may remove it again.
    """

    path: Path
    made: bool = False

    def checkpoint(self, word: str) -> Path:
        """The file that `last` or `best` stands for."""
        return self.path / "checkpoints" / f"{word}.ckpt"

    def release(self, failed: bool) -> None:
        """End this process's use: a folder made for a run of which nothing came is removed again."""
        os.environ.pop(FOLDER_VARIABLE, None)
        if self.made and (failed or not any(path.is_file() for path in self.path.rglob("*"))):
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                self.path.parent.rmdir()  # only if it is empty


def choose_run_folder(runs: Path, name: str, resume: str | None) -> RunFolder:
    """Return the run's folder, the same on every process of one launch.

    Rank 0 chooses. Processes that Lightning starts inherit the choice by environment, those that srun or torchrun
    started beside it are told through the launch.

    Args:
        runs: folder of all runs.
        name: name of this run; a second one gets `name-2`, and so on.
        resume: a checkpoint, whose run keeps its folder, or `last` or `best` of the newest run of this name.

    Raises:
        RectifyError: the folder cannot be made, or nothing is there to resume; on every process.
    """
    if inherited := os.environ.get(FOLDER_VARIABLE):
        return RunFolder(Path(inherited))
    runs = runs.resolve()
    launch = Launch.of_this_process(runs)
    if launch.rank == 0:
        try:
            path = _choose(runs, safe_name(name), resume)
            chosen = RunFolder(path, made=not path.exists())
            _make(path, chosen.made)
        except RectifyError as error:
            launch.tell(f"!{error}")
            raise
        launch.tell(str(path))
    else:
        told = launch.hear()
        if told.startswith("!"):
            raise RectifyError(told[1:])
        chosen = RunFolder(Path(told))
    os.environ[FOLDER_VARIABLE] = str(chosen.path)
    return chosen


def _choose(runs: Path, name: str, resume: str | None) -> Path:
    taken = _numbered(runs, name)
    if resume in LATEST:
        for number in sorted(taken, reverse=True):
            if RunFolder(taken[number]).checkpoint(resume).exists():
                return taken[number]
        raise RectifyError(f"--ckpt_path {resume}: no run {name} in {runs} has such a checkpoint; give its file.")
    if resume:
        for folder in Path(resume).resolve().parents:
            if (folder / RECORD).is_file():
                return folder
    for folder in taken.values():
        if _same_job(folder):
            return folder
    number = max(taken, default=0) + 1
    return runs / (name if number == 1 else f"{name}-{number}")


def _numbered(runs: Path, name: str) -> dict[int, Path]:
    """The folders `name`, `name-2`, … that exist, by number."""
    taken = {}
    if runs.is_dir():
        for folder in runs.iterdir():
            if match := re.fullmatch(re.escape(name) + r"(?:-(\d+))?", folder.name):
                taken[int(match[1] or 1)] = folder
    return taken


def _same_job(folder: Path) -> bool:
    """Whether this process is a requeue of the Slurm job whose unfinished run the folder holds."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0 or not (folder / RECORD).is_file():
        return False
    record = json.loads((folder / RECORD).read_text())
    return record.get("slurm_job_id") == os.environ.get("SLURM_JOB_ID") and record.get("status") != "finished"


def _make(folder: Path, new: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}-{time.monotonic_ns()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RectifyError(
            f"--runs_dir: {folder} cannot be written ({error.strerror}); choose another folder."
        ) from error
    if new and (job := os.environ.get("SLURM_JOB_ID")):
        with atomic_path(folder / RECORD) as path:  # so that a requeue before the first epoch finds its folder
            path.write_text(json.dumps({"status": "starting", "slurm_job_id": job}))
