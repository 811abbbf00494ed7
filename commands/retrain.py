"""The reference of unlearning: the original's own training, from scratch and without the forgotten samples, kept once.

The training runs in a process of its own, as the command that trained the original would, so nothing of this process
(seeds, process group, hooks) reaches it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pytorch_lightning.utilities import rank_zero_info

from .. import __version__
from ..callbacks import config_fingerprint
from ..collectives import broadcast_object
from ..errors import RectifyError
from ..files import atomic_path, data_home, sha256
from .config_files import take_allowed
from .request_log import run_of
from .retrain_config import check_same_samples, config_without, read_retrain_config
from .run_folder import RECORD

MARK = "retrained.json"
NOTE = ".retrained.json"
"""In the run folder: the leader's word to the processes that wait."""
LAUNCHED = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_",
    "NODE_RANK",
    "MASTER_",
    "TORCHELASTIC_",
    "SLURM",
    "PL_",
    "RECTIFY_RUN",
)


@dataclass
class Retrained:
    """A model trained without the forget samples.

    Attributes:
        weights: its checkpoint. seconds: its training took.
    """

    weights: Path
    seconds: float


class Retraining:
    """Trains the original's config on what is retained, or finds that this was done before.

    Args:
        original: the checkpoint unlearning starts from; its run folder holds the config and says which data it saw.
        config: the config's file, where there is no run folder.
        seeds: how many models, with the original's seed and those after it.

    Raises:
        RectifyError: there is no config to retrain, or its result may have seen what is forgotten.
    """

    def __init__(self, original: str | Path, config: str | None, seeds: int):
        run = run_of(Path(original))
        path = Path(config) if config else run / "config.yaml" if run else None
        if seeds < 1:
            raise RectifyError(f"--retrain_seeds is {seeds}; give at least 1.")
        if path is None or not path.is_file():
            missing = f"{path} does not exist" if path else f"{original} lies in no run folder"
            raise RectifyError(f"--retrain: {missing}; give the config it was trained with as --retrain_config FILE.")
        self.config: dict[str, Any] = read_retrain_config(path)
        record = json.loads((run / RECORD).read_text()) if run and not config else {}
        self.manifest_sha256, self.path, self.seeds = record.get("manifest_sha256"), path, seeds
        self.choice = Path(original).name  # best and last are compared with best and last

    def check(self, data: Mapping[str, Any]) -> None:
        """Raise RectifyError where the config `data` of the unlearning choose other samples than the original's."""
        check_same_samples(self.config, self.path, data)

    def run(self, data: Any, folder: Path, leader: bool) -> list[Retrained]:
        """Return the retrained models; only the leader trains, the other processes wait for its word in `folder`.

        Args:
            data: the data module, set up, with a forget request.

        Raises:
            RectifyError: the original saw other data, or a training failed; on every process.
        """
        note = folder / NOTE
        if leader:
            note.unlink(missing_ok=True)  # the word of an attempt that failed
        broadcast_object(None)  # nobody looks before it is gone
        if leader:
            try:
                found: dict[str, Any] = {"models": [self._one(data, number) for number in range(self.seeds)]}
            except BaseException as error:  # whatever ends the leader must end those who wait for it
                text = str(error) if isinstance(error, RectifyError) else f"--retrain: {type(error).__name__}: {error}."
                _tell(note, {"error": text})
                raise
            _tell(note, found)
        else:
            found = _heard(note)
        if "error" in found:
            raise RectifyError(found["error"])
        return [Retrained(Path(weights), seconds) for weights, seconds in found["models"]]

    def _one(self, data: Any, number: int) -> tuple[str, float]:
        manifest = sha256(data.manifest_path)
        if self.manifest_sha256 not in (None, manifest):
            raise RectifyError(
                f"--retrain: {self.path} was trained on other data than {data.manifest.folder}; set data.source to it."
            )
        seed = int(self.config.get("seed_everything") or 0) + number
        left_out = hashlib.sha256(data.left_out_index.astype("<i8").tobytes()).hexdigest()
        fingerprint = config_fingerprint({**self.config, "seed_everything": seed})
        key = [fingerprint, manifest, left_out, _world(self.config["trainer"]), __version__]
        home = data_home() / "retrained" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        if not (home / MARK).is_file():
            self._train(data, home, seed)
        else:
            rank_zero_info(f"Retrained model of seed {seed} found in {home}")
        weights = home / "checkpoints" / self.choice
        known = [weights, home / "checkpoints" / "best.ckpt", home / "checkpoints" / "last.ckpt"]
        seconds = json.loads((home / MARK).read_text())["seconds"]
        return str(next(path for path in known if path.exists())), seconds

    def _train(self, data: Any, home: Path, seed: int) -> None:
        home.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))
        try:
            np.save(work / "forget.npy", data.left_out_index)
            config, log = work / "retrain.yaml", work / "output.log"
            config.write_text(yaml.safe_dump(config_without(self.config, work / "forget.npy", work, seed)))
            rank_zero_info(
                f"Retraining {self.path} with seed {seed} on the {len(data.retain_index)} retained samples; log: {log}"
            )
            allowed = [f"--allow={name}" for name in take_allowed(sys.argv[1:])[1]]
            command = [sys.executable, "-m", "lightning_rectify.train", "fit", f"--config={config}", *allowed]
            env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
            with log.open("w") as output:
                code = subprocess.run(command, env=env, stdout=output, stderr=subprocess.STDOUT).returncode
            record = _record(work / "run")
            if code or record.get("status") != "finished":
                said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
                raise RectifyError(f"--retrain: the training failed ({said[-1][:200] if said else code}).")
            times = [datetime.fromisoformat(record[name]) for name in ("started", "ended")]
            mark = {"seconds": (times[1] - times[0]).total_seconds(), "seed": seed, "config": str(self.path)}
            (work / "run" / MARK).write_text(json.dumps(mark))
            shutil.copy(work / "forget.npy", work / "run" / "forget.npy")
            if not (home / MARK).is_file():  # another process may have been faster
                (work / "run").rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _world(trainer: dict[str, Any]) -> list[Any]:
    """What sets the number of processes, and with it the samples of a step."""
    devices, accelerator = trainer.get("devices"), trainer.get("accelerator")
    by_machine = devices in (None, "auto", -1, "-1") and accelerator != "cpu"
    return [accelerator, devices, trainer.get("num_nodes"), torch.cuda.device_count() if by_machine else None]


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def _tell(note: Path, found: dict[str, Any]) -> None:
    with atomic_path(note) as path:
        path.write_text(json.dumps(found))


def _heard(note: Path) -> dict[str, Any]:
    """Wait for the leader's word: no collective, which would run into its timeout during a long training."""
    import time

    while not note.is_file():
        time.sleep(0.5)
    return json.loads(note.read_text())
