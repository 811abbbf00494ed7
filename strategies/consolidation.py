"""One plain weights file out of a DeepSpeed checkpoint folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RectifyError
from ..files import atomic_path
from .sealing import check_seal

KEYS = "rectify_keys"
"""Where a checkpoint notes which entries Lightning wrote, among those that DeepSpeed adds."""


def consolidate(checkpoint: Path | str, out: Path | str, *, trust: bool = False) -> Path:
    """Gather the shards of a ZeRO folder into one file of exact fp32 weights and return its path.

    A `.ckpt` file holds a Lightning checkpoint without optimizer state, which any strategy tests from and
    `weights_only=True` loads; a `.safetensors` file holds the tensors alone.

    Args:
        checkpoint: the folder a DeepSpeed run saved.
        out: the file to write, `.ckpt` or `.safetensors`.
        trust: read a folder without this user's seal; it is unpickled and may run code.

    Raises:
        RectifyError: foreign or incomplete folder, unknown suffix, or `out` cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.suffix not in (".ckpt", ".safetensors"):
        raise RectifyError(f"consolidate: {out.name} must end in .ckpt or .safetensors.")
    if not trust:
        check_seal(checkpoint)
    weights, rest = zero_state_dict(checkpoint)
    with atomic_path(out) as path:
        if out.suffix == ".ckpt":
            torch.save({**rest, "state_dict": weights}, path)
        else:
            from safetensors.torch import save_file

            save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, path)
    return out


def zero_state_dict(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the fp32 state dict of a ZeRO folder and what else Lightning stored there; unpickles, so check first."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint, get_model_state_files

    weights = get_fp32_state_dict_from_zero_checkpoint(str(folder), "checkpoint")
    first = get_model_state_files(str(folder / "checkpoint"))[0]
    client = torch.load(first, map_location="cpu", weights_only=False)
    weights = dict(weights)
    for name, tensor in (client.get("module") or {}).items():
        weights.setdefault(name, tensor)  # stage 1 leaves frozen weights out of what it merges
    return weights, {key: client[key] for key in client.get(KEYS, ())}
