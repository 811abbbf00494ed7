"""Which weights may move: one bit each, in memory and on disk."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..files import atomic_path
from .parameter_names import plainly_named, whole_shape

FORMAT, VERSION = "lightning_rectify.weight_mask", 1
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class WeightMask:
    """Bits by plain parameter name, in traversal order. A parameter that is not listed may not move at all.

    Attributes:
        packed: uint8 (⌈n/8⌉,) for each ranked parameter of n entries, the first entry in the highest bit.
        shapes: the parameters' shapes.
        density: share of the ranked weights that was asked for.
        settings: how the scores were made, as text.
        architecture: fingerprint of the names and shapes of all parameters of the network.
    """

    packed: dict[str, Tensor]
    shapes: dict[str, torch.Size]
    density: float
    settings: dict[str, str]
    architecture: str

    def bits(self, name: str) -> Tensor:
        """The mask of a ranked parameter, bool of its shape on the CPU."""
        shape = self.shapes[name]
        size = shape.numel()
        return torch.from_numpy(np.unpackbits(self.packed[name].numpy(), count=size)).view(torch.bool).view(shape)

    @property
    def size(self) -> int:
        """How many weights were ranked."""
        return sum(shape.numel() for shape in self.shapes.values())

    def kept(self, name: str) -> int:
        """How many entries of a ranked parameter may move."""
        return count_ones(self.packed[name])

    @property
    def ones(self) -> int:
        """How many weights may move."""
        return sum(map(self.kept, self.packed))

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and bits."""
        digest = hashlib.sha256()
        for name, packed in self.packed.items():
            digest.update(f"{name}{tuple(self.shapes[name])}".encode())
            digest.update(packed.numpy().tobytes())
        return digest.hexdigest()

    def check_fits(self, network: nn.Module, source: str) -> None:
        """Raise RectifyError unless the mask was made for a network of these names and shapes."""
        own = {name: whole_shape(parameter) for name, parameter in plainly_named(network)}
        if architecture(network) == self.architecture:
            return
        differing = [name for name, shape in self.shapes.items() if own.get(name) != shape]
        name = differing[0] if differing else next(iter(self.shapes))
        what = f"{name} is {tuple(self.shapes[name])} there and {_shape(own.get(name))} here"
        if not differing:
            what = "parameters that it does not rank differ"
        raise RectifyError(
            f"{source} is a mask of another architecture ({what}); make one for this network or set the backbone."
        )

    def save(self, path: Path | str) -> None:
        """Write one safetensors file of N/8 bytes and a header.

        Raises:
            RectifyError: it cannot be written.
        """
        from safetensors.torch import save

        about = {name: value for name, value in self.state_dict().items() if name not in ("packed", "version")}
        metadata = {"format": FORMAT, "version": str(VERSION), "digest": self.digest, "mask": json.dumps(about)}
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(self.packed, metadata))  # save_file makes a file that only its owner reads

    @classmethod
    def load(cls, path: Path | str) -> "WeightMask":
        """Read a file of `save`; nothing is unpickled.

        Raises:
            RectifyError: missing, no mask, of another version, or changed since it was written.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise RectifyError(f"mask: {path} does not exist; give the file of a weight mask.")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise RectifyError(f"mask: {path} is no safetensors file; give the file of a weight mask.") from error
        if metadata.get("format") != FORMAT:
            raise RectifyError(f"mask: {path} holds no weight mask; give a file that WeightSaliency has written.")
        if metadata.get("version") != str(VERSION):
            raise RectifyError(
                f"mask: {path} has version {metadata.get('version')} and this package reads {VERSION}; make it anew."
            )
        try:
            mask = cls.from_state_dict({**json.loads(metadata["mask"]), "packed": packed, "version": VERSION})
            intact = mask.digest == metadata.get("digest")
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            raise RectifyError(f"mask: {path} was changed since it was written; make it anew.")
        return mask

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "version": VERSION,
            "packed": self.packed,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "density": self.density,
            "settings": self.settings,
            "architecture": self.architecture,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "WeightMask":
        if state["version"] != VERSION:
            raise RectifyError(
                f"The checkpoint's weight mask has version {state['version']} and this package reads {VERSION}; "
                "go on with the package it was made with."
            )
        shapes = {name: torch.Size(shape) for name, shape in state["shapes"].items()}
        packed = {name: state["packed"][name].cpu() for name in shapes}  # traversal order, which a file need not keep
        return cls(packed, shapes, state["density"], dict(state["settings"]), state["architecture"])


def architecture(network: nn.Module) -> str:
    """Fingerprint of the plain names and the shapes of all parameters, in traversal order."""
    listed = [[name, list(whole_shape(parameter))] for name, parameter in plainly_named(network)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def count_ones(packed: Tensor) -> int:
    """How many bits of a uint8 tensor on the CPU are set."""
    return int(_ONES[packed.numpy()].sum(dtype=np.int64))


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))
