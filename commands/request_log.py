"""Who asked to forget what, when, and what came of it; and which files still hold the forgotten samples."""

import getpass
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..datamodules import ForgetRequest
from ..errors import RectifyError
from ..files import atomic_path, sha256
from .run_folder import RECORD
from .starting_weights import read_checkpoint

LOG = "requests_log.json"
HOLDING = (".ckpt", ".pt", ".safetensors", ".png", ".npz", ".npy")


def write_request_log(
    path: Path, request: ForgetRequest, original: Path, result: Path, mask: Path | None, data: Any
) -> None:
    """Write `requests_log.json`. No sample key stands in it: keys are counted, and their sorted list is hashed.

    Args:
        original, result: checkpoints before and after.
        mask: the weight mask, if one was used.
        data: the data module.
    """
    log = {
        **_who(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "lightning_rectify": __version__,
        "requests": list(request.requests),
        "samples": len(request.index),
        "keys_sha256": request.keys_sha256,
        "classes": list(request.classes),
        "forgotten_before": 0 if data.forgotten_before is None else len(data.forgotten_before),
        "manifest": str(data.manifest_path),
        "manifest_sha256": sha256(data.manifest_path),
        "original": str(original),
        "original_sha256": sha256(original),
        "mask": None if mask is None else str(mask),
        "mask_sha256": None if mask is None else sha256(mask),
        "result": str(result),
        "result_sha256": sha256(result),
        "purge": purge_list(original, request, data),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(log, indent=2) + "\n")


def purge_list(original: Path, request: ForgetRequest, data: Any) -> list[str]:
    """Return the old files that hold the forgotten samples, or weights and figures made from them.

    These are the shards with the samples, the original checkpoint, and in the run that it comes from all checkpoints,
    predictions, per-sample stores and pictures. Where the original is itself the result of a request, what that
    request's log names is named again.
    """
    folder = data.manifest.folder
    shards = {int(shard) for shard in data.index.shard[request.index]}
    found = [folder / Path(data.manifest.shards[shard]["name"]).name for shard in sorted(shards)]
    found.append(original)
    if run := run_of(original):
        found += [path for path in sorted(run.rglob("*")) if path.suffix in HOLDING]
        found += sorted(run.rglob("predictions.csv"))
        found += sorted(run.rglob("events.out.tfevents.*"))  # TensorBoard holds the figures too
        if (run / LOG).is_file():
            found += map(Path, json.loads((run / LOG).read_text()).get("purge", []))
    return list(dict.fromkeys(str(path.resolve()) for path in found if path.exists()))


def forgotten_note(data: Any) -> dict[str, Any]:
    """What the checkpoint of an unlearned model says of all it was made to forget, for the next request."""
    return {
        "keys_sha256": data.request.keys_sha256,
        "samples": len(data.request.index),
        "index": torch.from_numpy(data.left_out_index),
        "manifest_sha256": sha256(data.manifest_path),
    }


def leave_out_forgotten(data: Any, original: Path) -> None:
    """Take out of `data` what the original was made to forget already, so that it is not learnt again.

    Raises:
        RectifyError: the checkpoint does not say which samples these are.
    """
    note = read_checkpoint(original, "--init_from").get("unlearned")
    if not isinstance(note, dict):
        return
    if not note.keys() >= {"index", "manifest_sha256"}:
        raise RectifyError(
            f"--init_from: {original} was made to forget {note.get('samples', 'some')} samples and does not say which; "
            "start from its own original and list both requests in data.forget."
        )
    data.leave_out(note["index"].numpy(), note["manifest_sha256"])


def run_of(checkpoint: Path) -> Path | None:
    """The run folder a checkpoint lies in; None for a file that was copied elsewhere."""
    return next((folder for folder in checkpoint.resolve().parents if (folder / RECORD).is_file()), None)


def _who() -> dict[str, str]:
    """User and host, as far as the system knows them."""
    found = {}
    for name, ask in (("user", getpass.getuser), ("host", socket.gethostname)):
        try:
            found[name] = ask()
        except (OSError, KeyError):
            continue
    return found
