"""What a parameter is called, whatever its network is wrapped in, and what kind of parameter it is."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import nn

from ..errors import RectifyError

Kind = Literal["weights", "bias", "norm"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_WRAPPERS = ("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def plain_name(name: str) -> str:
    """Take the prefixes of DDP, DeepSpeed, FSDP, activation checkpoints and `torch.compile` out of a name."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":  # further inside it may be somebody's own attribute
        del parts[0]
    return ".".join(parts)


def plainly_named(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Go through the parameters in traversal order, each once, under its plain name."""
    for name, parameter in network.named_parameters():
        yield plain_name(name), parameter


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """The shape of a parameter as the network was built, also while ZeRO-3 keeps only a part of it here."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def kinds(network: nn.Module) -> dict[str, Kind]:
    """Map each plain name to its kind: `norm` is all a normalisation layer has, `bias` a bias elsewhere."""
    found: dict[str, Kind] = {}
    for prefix, module in network.named_modules():
        norm = "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False):
            kind: Kind = "norm" if norm else "bias" if name.rpartition("_")[2] == "bias" else "weights"
            found.setdefault(plain_name(f"{prefix}.{name}" if prefix else name), kind)
    return found


def check_kinds(include: object, who: str) -> tuple[Kind, ...]:
    """Return the kinds in their fixed order.

    Raises:
        RectifyError: nothing, or something unknown, is included.
    """
    asked = [include] if isinstance(include, str) else list(include)  # type: ignore[call-overload]
    if not asked or set(asked) - set(KINDS):
        raise RectifyError(f"{who}: include is {asked}; give one or more of {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in asked)
