"""Weights to start from, which is not the same as a checkpoint to resume from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..callbacks.ema import RAW
from ..errors import RectifyError
from ..lightning_modules.rectifier import Rectifier


def read_checkpoint(path: str | Path, key: str) -> dict[str, Any]:
    """Read a local checkpoint without unpickling code.

    Raises:
        RectifyError: the path is a URL, missing, not a checkpoint, or holds more than tensors and plain values.
    """
    if "://" in str(path):
        raise RectifyError(f"{key}: {path} is a URL; download it yourself and give the local file.")
    path = Path(path)
    if path.is_dir():
        raise RectifyError(f"{key}: {path} is a folder; if it holds shards of weights, {one_file(path)}.")
    if not path.is_file():
        raise RectifyError(f"{key}: {path} does not exist; give the file of a checkpoint.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise RectifyError(f"{key}: {path} is no checkpoint of tensors and plain values; it was not opened.") from error
    if not isinstance(checkpoint, dict):
        raise RectifyError(f"{key}: {path} holds a {type(checkpoint).__name__}; give a checkpoint or a state_dict.")
    return checkpoint


def one_file(folder: Path) -> str:
    """How to make one file of a folder of shards, for the end of a sentence."""
    room = "lightning_rectify.strategies"
    call = f"import {room}; {room}.consolidate('{folder}', '{folder.with_name(folder.stem + '.whole.ckpt')}')"
    return f'make one file of them first: python -c "{call}"'


def network_of(module: nn.Module) -> tuple[nn.Module, bool]:
    """Return the network that gives a module's logits, and whether it is the whole module.

    In our modules it is the backbone. What somebody else calls `backbone` may be a part of the network.
    """
    return (module.backbone, False) if isinstance(module, Rectifier) else (module, True)


def backbone_weights(checkpoint: dict[str, Any], key: str, whole: bool = False) -> tuple[dict[str, Tensor], bool]:
    """Return the backbone's weights in a Lightning checkpoint or plain state dict, and whether they are averaged.

    With `whole` the weights are those of a module that is not ours, all of them.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict):
        raise RectifyError(f"{key}: the checkpoint holds no weights; its state_dict is {type(state).__name__}.")
    inside = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    weights = (not whole and inside) or {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise RectifyError(f"{key}: the checkpoint holds no weights; give one with a state_dict.")
    return weights, RAW in checkpoint


def load_starting_weights(
    backbone: nn.Module, path: str | Path, replace_head: bool = False, whole: bool = False
) -> bool:
    """Load weights into a backbone, strictly; return whether they are a moving average.

    Args:
        backbone: the module to load into, in place.
        path: a Lightning checkpoint, a plain state dict or a safetensors file.
        replace_head: keep the backbone's own freshly initialised head where the shapes of the last layer differ.
        whole: it is no backbone but somebody else's module, as `network_of` says.

    Raises:
        RectifyError: names or shapes differ. Nothing is loaded then.
    """
    weights, averaged = backbone_weights(read_checkpoint(path, "--init_from"), "--init_from", whole)
    check_fit(backbone, weights, f"--init_from {path}", ignore_head=replace_head, whole=whole)
    if replace_head:
        head = _head_names(backbone, weights)
        weights = {**weights, **{name: backbone.state_dict()[name] for name in head}}
    backbone.load_state_dict(weights)
    return averaged


def check_fit(
    backbone: nn.Module, weights: dict[str, Tensor], source: str, ignore_head: bool = False, whole: bool = False
) -> None:
    """Raise RectifyError unless the weights fit the backbone (or `whole` module) name by name and shape by shape."""
    own = backbone.state_dict()
    skipped = _head_names(backbone, weights) if ignore_head else set()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    differing = [n for n in own.keys() & weights.keys() - skipped if own[n].shape != weights[n].shape]
    if not (missing or foreign or differing):
        return
    if differing:
        name = sorted(differing)[0]
        what = f"{name} is {tuple(weights[name].shape)} there and {tuple(own[name].shape)} here"
    else:
        what = f"it lacks {missing[0]}" if missing else f"it has {foreign[0]}, which is unknown here"
    count = len(missing) + len(foreign) + len(differing)
    remedy = " or pass --replace_head true" if _only_head(backbone, weights, missing, foreign, differing) else ""
    raise RectifyError(
        f"{source}: the checkpoint is of another architecture ({what}; {count} differences); "
        f"set {'module and model' if whole else 'model.backbone'} to the one it was trained with{remedy}."
    )


def _head_names(backbone: nn.Module, weights: dict[str, Tensor]) -> set[str]:
    """Weights of the last layer whose shapes differ: those whose name shares the last parameter's prefix."""
    own = backbone.state_dict()
    last = [name for name, _ in backbone.named_parameters()][-1].rpartition(".")[0]
    return {n for n in own if n.startswith(f"{last}.") and n in weights and own[n].shape != weights[n].shape}


def _only_head(
    backbone: nn.Module, weights: dict[str, Tensor], missing: list[str], foreign: list[str], differing: list[str]
) -> bool:
    return not missing and not foreign and set(differing) <= _head_names(backbone, weights)
