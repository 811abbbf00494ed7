"""Shards as tar files: raw pixels or PNG, with the same bytes for the same images."""

import io
import tarfile
import warnings
from pathlib import Path

import numpy as np

from ..errors import RectifyError
from ..files import atomic_path, sha256
from .sources import Source

BLOCK = 512  # bytes of a tar file's unit


class ShardWriter:
    """Writes shards one after the other and remembers where each image lies.

    Args:
        folder: exists and holds no shards.
        encoding: `raw` or `png`.
        size: resize the shorter side to it and crop the centre; None takes images as they are, all of one size.
        shard_size: samples a shard.

    Attributes:
        kept: positions in the source, of what was written.
        keys, rows: of each kept sample, the latter (shard, offset, length).
        sums: of each kept sample, the sum and the sum of squares per channel, exact in int64.
        shards: of each shard, what the manifest says of it.
        skipped: keys of samples that could not be used.
        shape: (H, W, C) of all images.
    """

    def __init__(self, folder: Path, encoding: str, size: int | None, shard_size: int):
        self.folder, self.encoding, self.size, self.shard_size = folder, encoding, size, shard_size
        self.kept: list[int] = []
        self.keys: list[str] = []
        self.rows: list[tuple[int, int, int]] = []
        self.sums: list[np.ndarray] = []
        self.shards: list[dict] = []
        self.skipped: list[str] = []
        self.shape: tuple[int, ...] | None = None

    def write(self, source: Source, max_bad: float, progress: bool) -> None:
        """Write every image of the source that can be used.

        Raises:
            RectifyError: more than the share `max_bad` of the samples cannot be used.
        """
        positions = range(len(source.labels))
        if progress:
            from rich.progress import track

            positions = track(positions, "Building shards")  # type: ignore[assignment]
        batch: list[tuple[str, bytes, int]] = []
        for position in positions:
            try:
                image = self._fit(source.image(position))
            except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: what Pillow raises for a broken PNG
                self.skipped.append(source.keys[position])
                if len(self.skipped) > max_bad * len(source.labels):
                    raise RectifyError(
                        f"{len(self.skipped)} of {len(source.labels)} samples cannot be used, more than max_bad "
                        f"{max_bad:g} allows; the last is {source.keys[position]}: {error}."
                    ) from error
                continue
            flat = image.reshape(-1, image.shape[-1]).astype(np.int64)
            self.sums.append(np.stack([flat.sum(0), (flat * flat).sum(0)]))
            self.kept.append(position)
            batch.append((_tar_key(source.keys[position], position), self._encode(image), int(source.labels[position])))
            if len(batch) == self.shard_size:
                self._write_shard(batch)
                batch = []
        if batch:
            self._write_shard(batch)
        if self.skipped:
            warnings.warn(f"{len(self.skipped)} unreadable samples skipped: {', '.join(self.skipped[:10])}.")

    def _fit(self, image: np.ndarray) -> np.ndarray:
        if self.size is not None and image.shape[:2] != (self.size, self.size):
            image = _resize(image, self.size)
        self.shape = self.shape or image.shape
        if image.shape != self.shape:
            raise ValueError(f"its size is {image.shape}, the first image's {self.shape}; set size to resize all")
        return image

    def _encode(self, image: np.ndarray) -> bytes:
        if self.encoding == "raw":
            return np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
        return buffer.getvalue()

    def _write_shard(self, batch: list[tuple[str, bytes, int]]) -> None:
        path = self.folder / f"shard-{len(self.shards):06d}.tar"
        suffix = "u8" if self.encoding == "raw" else "png"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for key, image, label in batch:
                self.rows.append((len(self.shards), file.tell() + BLOCK, len(image)))
                self.keys.append(key)
                file.write(_member(f"{key}.{suffix}", image))
                file.write(_member(f"{key}.cls", str(label).encode()))
            file.write(b"\0" * 2 * BLOCK)  # the end of a tar file
        pitch = -(-len(batch[0][1]) // BLOCK) * BLOCK + 3 * BLOCK if self.encoding == "raw" else 0
        self.shards.append(
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
                "samples": len(batch),
                "pitch": pitch,
            }
        )


def _member(name: str, data: bytes) -> bytes:
    """A tar member: a header block (fixed time and owner, so that builds are equal) and the padded data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % BLOCK)


def _tar_key(key: str, position: int) -> str:
    """WebDataset ends a key at the first dot of the file name, and a plain tar header holds 100 bytes."""
    folder, _, last = key.rpartition("/")
    key = "/".join(filter(None, [folder, last.replace(".", "_")]))
    return key if len(key.encode()) <= 90 and key.isascii() else f"sample/{position:08d}"


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    width, height = picture.size
    scale = size / min(width, height)
    picture = picture.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)))
    return pixels[..., None] if pixels.ndim == 2 else pixels
