"""Random access to the samples of local shards through their index, a batch at a time."""

import io
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import RectifyError
from .manifest import Index, Manifest

BLOCK = 512
Faults = list[tuple[int, str]]


class ShardReader:
    """Reads images by index. Shards are memory-mapped; a raw batch is one gather per shard it touches.

    Instances may be copied to worker processes: the maps are opened there on first use.
    """

    def __init__(self, manifest: Manifest, index: Index):
        self.manifest, self.index = manifest, index
        self.shape = (manifest.channels, manifest.height, manifest.width)

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "_maps"}

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        maps = []
        for shard in self.manifest.shards:
            path = self.manifest.folder / Path(shard["name"]).name
            try:
                # a plain array over the map: np.memmap costs microseconds at every slice
                mapped = np.asarray(np.memmap(path, np.uint8, "r"))
            except (OSError, ValueError) as error:
                raise RectifyError(
                    f"Shard {path} cannot be opened ({error}); restore it or rebuild the shards."
                ) from error
            if shard["pitch"]:
                length = int(np.prod(self.shape))
                mapped = mapped[: shard["samples"] * shard["pitch"]].reshape(-1, shard["pitch"])[
                    :, BLOCK : BLOCK + length
                ]
            maps.append(mapped)
        return maps

    def images(self, indices: np.ndarray) -> tuple[Tensor, Faults]:
        """Return (n, C, H, W) uint8 and the faults, `(position in indices, reason)`; a faulty image is zero."""
        if self.manifest.encoding == "raw":
            return self._raw(indices), []
        out = np.zeros((len(indices), *self.shape), np.uint8)
        faults = []
        shards, offsets, lengths = (a[indices] for a in (self.index.shard, self.index.offset, self.index.length))
        for position, (shard, offset, length) in enumerate(zip(shards, offsets, lengths, strict=True)):
            try:
                out[position] = decode_image(self._maps[shard][offset : offset + length].tobytes(), self.shape)
            except ValueError as error:
                faults.append((position, str(error)))
        return torch.from_numpy(out), faults

    def _raw(self, indices: np.ndarray) -> Tensor:
        shards = self.index.shard[indices]
        if (shards == shards[:1]).all():
            out = self._rows(shards[0], indices) if len(indices) else np.zeros((0, *self.shape), np.uint8)
        else:
            out = np.empty((len(indices), int(np.prod(self.shape))), np.uint8)
            for shard in np.unique(shards):
                here = shards == shard
                out[here] = self._rows(shard, indices[here])
        return torch.from_numpy(out.reshape(-1, *self.shape))

    def _rows(self, shard: int, indices: np.ndarray) -> np.ndarray:
        rows = (self.index.offset[indices] - BLOCK) // self.manifest.shards[shard]["pitch"]
        return self._maps[shard][rows]


class MemoryReader:
    """The chosen samples of another reader, held in memory as uint8.

    Attributes:
        faults: `(index, reason)` of the samples that could not be read.
    """

    def __init__(self, reader: ShardReader, indices: np.ndarray):
        self._images, faults = reader.images(indices)
        self.faults = [(int(indices[position]), reason) for position, reason in faults]
        self._row = np.full(len(reader.index.key), -1)
        self._row[indices] = np.arange(len(indices))

    def images(self, indices: np.ndarray) -> tuple[Tensor, Faults]:
        return self._images[torch.from_numpy(self._row[indices])], []


def decode_image(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a PNG, JPEG or WebP file to (C, H, W) uint8.

    Raises:
        ValueError: the file is corrupt, or its size is another.
    """
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.size != (width, height):  # known from the header: a bomb is refused before it is unpacked
                raise ValueError(f"its size is {picture.size[1]}x{picture.size[0]}, not {height}x{width}")
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"its image is corrupt ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
