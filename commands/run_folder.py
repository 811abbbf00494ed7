"""The folder of a run: new for a new run, the same for a resume or a requeue."""

import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from ..errors import RectifyError
from ..files import atomic_path, safe_name

FOLDER_VARIABLE = "RECTIFY_RUN_FOLDER"
AGREE_WITHIN_S = 120
_made: Path | None = None  # the folder this process made, which it may remove again


def choose_run_folder(runs: Path, name: str, resume: str | None) -> Path:
    """Return the run's folder, the same on every process of one launch.

    Rank 0 chooses; processes that Lightning starts inherit the choice by environment, those that srun or torchrun
    started beside it read it from a file named after the launch.

    Args:
        runs: folder of all runs.
        name: name of this run; a second one gets `name-2`, and so on.
        resume: the checkpoint to resume from, or `last`; its run keeps its folder.

    Raises:
        RectifyError: the folder cannot be made, or nothing is there to resume.
    """
    global _made
    if inherited := os.environ.get(FOLDER_VARIABLE):
        return Path(inherited)
    runs = runs.resolve()  # a checkpoint callback that resumes compares its folder as text
    launch = _launch_key()
    note = runs / f".launch-{launch}"
    if launch and _launch_rank() != 0:
        folder = _read_note(note)
    else:
        folder = _choose(runs, safe_name(name), resume)
        is_new = not folder.exists()
        _make(folder)
        _made = folder if is_new else None
        if launch:
            with atomic_path(note) as path:
                path.write_text(str(folder))
    os.environ[FOLDER_VARIABLE] = str(folder)
    return folder


def release_run_folder(folder: Path | None, failed: bool = False) -> None:
    """Forget the choice of this process.

    Args:
        folder: what `choose_run_folder` returned, None if it did not get that far.
        failed: nothing came of the run; a folder that was made for it is removed again.
    """
    global _made
    if folder is None or _launch_rank() != 0 or os.environ.get(FOLDER_VARIABLE) != str(folder):
        return
    del os.environ[FOLDER_VARIABLE]
    if failed and _made == folder:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()  # only if it is empty
    _made = None
    if launch := _launch_key():
        (folder.parent / f".launch-{launch}").unlink(missing_ok=True)


def _choose(runs: Path, name: str, resume: str | None) -> Path:
    if resume and resume not in ("last", "best"):
        checkpoint = Path(resume).resolve()
        for folder in checkpoint.parents:
            if (folder / "run.json").is_file():
                return folder
    taken = _numbered(runs, name)
    if resume == "last" and taken:
        return taken[max(taken)]
    for number, folder in taken.items():
        if _same_job(folder):
            return taken[number]
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
    """Whether this process is a requeue of the Slurm job that made the folder."""
    job = os.environ.get("SLURM_JOB_ID")
    record = folder / "run.json"
    if not job or not record.is_file():
        return False
    return json.loads(record.read_text()).get("slurm_job_id") == job


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RectifyError(
            f"--runs_dir: {folder} cannot be written ({error.strerror}); choose another folder."
        ) from error


def _launch_key() -> str:
    """A name shared by all processes of one srun or torchrun launch; empty for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_PORT" in os.environ:
        parts = [os.environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        # the launcher's process id tells two launches on the same port apart
        return safe_name("-".join([*parts, str(os.getppid())]))
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        keys = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return safe_name("-".join(os.environ.get(key, "0") for key in keys))
    return ""


def _launch_rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def _read_note(note: Path) -> Path:
    deadline = time.monotonic() + AGREE_WITHIN_S
    while time.monotonic() < deadline:
        if note.is_file():
            return Path(note.read_text())
        time.sleep(0.1)
    raise RectifyError(f"--runs_dir: {note.parent} is not shared between the nodes; choose a folder that all can see.")
