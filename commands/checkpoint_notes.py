"""What a checkpoint says of its own making, beside its weights and what a resume needs."""

from typing import Any

from ..callbacks.ema import RAW, UPDATES
from ..errors import RectifyError
from .starting_weights import read_checkpoint

RESUME = frozenset(
    {
        *("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "MixedPrecision", RAW, UPDATES),
        *("native_amp_scaling_state", "amp_scaling_state", "ShardDataModule"),
    }
)


def kept_notes(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint made from this one still has to say: what it forgot, format, versions, epoch and step.

    What only a resume of its training reads is left out; so are the weights, and a bare state dict has no notes.
    """
    if "state_dict" not in checkpoint:
        return {}
    notes = {name: value for name, value in checkpoint.items() if name not in RESUME}
    if isinstance(notes.get("rectify"), dict):
        notes["rectify"] = {name: value for name, value in notes["rectify"].items() if name != "means"}
    return notes


def check_uncalibrated(path: str, key: str) -> None:
    """Raise RectifyError if a checkpoint was written by the command calibrate."""
    if name := read_checkpoint(path, key).get("calibration"):
        raise RectifyError(
            f"{key}: {path} is calibrated already, by {name}; give the checkpoint it was made from, or a map on a map "
            "would be fitted."
        )
