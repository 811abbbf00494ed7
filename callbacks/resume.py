"""Which checkpoint an interrupted run goes on from: its own, recognised by a fingerprint of what it trains."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning.utilities import rank_zero_warn

from ..errors import RectifyError

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

NOTE = "rectify.json"
"""In a checkpoint that is a folder: the fingerprint and the step."""

STATE = "Preemption"
"""The key under which a checkpoint holds the state of the callback, its class name."""


def config_fingerprint(config: str | Mapping[str, Any]) -> str:
    """SHA-256 over a resolved config (YAML text or mapping), less the keys that do not change what is trained."""
    tree = yaml.safe_load(config) if isinstance(config, str) else config
    return hashlib.sha256(json.dumps(_relevant(tree, ""), sort_keys=True, default=str).encode()).hexdigest()


def is_requeue() -> bool:
    """Whether this process belongs to a Slurm job that ran before."""
    return restarts() > 0


def restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def find_resume(run_folder: Path | str, fingerprint: str) -> Path | None:
    """Return the newest checkpoint this run can continue from: one saved on a signal, or a `last.ckpt`; else None.

    Raises:
        RectifyError: the folder holds the interrupted run of another configuration, or, after a requeue, any
            checkpoint of another: it would be overwritten.
    """
    found: dict[Path, int] = {}
    others: list[Path] = []
    folder = Path(run_folder)
    for path in [*folder.glob("preempt-*.ckpt"), *folder.rglob("last*.ckpt")]:
        note = _read_note(path)
        if note is None:
            continue
        if note["fingerprint"] == fingerprint:
            found[path] = note["step"]
        elif path.name.startswith("preempt-"):
            raise _other(path)
        else:
            others.append(path)
    if others and not found and is_requeue():
        raise _other(others[0])
    return max(found, key=lambda path: found[path], default=None)


def _other(path: Path) -> RectifyError:
    return RectifyError(
        f"{path} was saved by another configuration; choose another --name, restore that configuration, or delete the "
        "file."
    )


def _read_note(path: Path) -> dict[str, Any] | None:
    """Fingerprint and step of a checkpoint; None if it has none or cannot be read."""
    try:
        if path.is_dir():
            inside = path / NOTE
            note = json.loads((inside if inside.is_file() else path.with_suffix(".json")).read_text())
            return {"fingerprint": note["fingerprint"], "step": int(note["step"])}
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        state = checkpoint["callbacks"][STATE]
        return {"fingerprint": state["fingerprint"], "step": checkpoint["global_step"]}
    except Exception as error:  # a half-written, old or foreign file is no reason to stop
        if not isinstance(error, KeyError | FileNotFoundError):
            rank_zero_warn(f"{path} cannot be read and is passed over ({error})")
        return None


def _relevant(tree: Any, prefix: str) -> Any:
    if isinstance(tree, Mapping):
        keys = {str(key): f"{prefix}{key}" for key in tree}
        return {key: _relevant(tree[key], f"{path}.") for key, path in keys.items() if path not in IRRELEVANT}
    return [_relevant(item, f"{prefix}[].") for item in tree] if isinstance(tree, list | tuple) else tree
