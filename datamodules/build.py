"""Build shards: `python -m lightning_rectify.datamodules.build SOURCE OUT [--format raw|png] …`.

SOURCE is `digits`, `glyphs`, `torchvision:NAME`, an `.npz` file, a folder of IDX files, a folder with one folder per
class, or a retrieval benchmark: `cub:FOLDER`, `cars196:FOLDER`, `sop:FOLDER`, `inaturalist2018:FOLDER`; `blocks:SOURCE`
puts a null block above or below each image.
Shards are tar files in WebDataset layout: `<key>.u8` or `<key>.png`, then `<key>.cls` with the label in ASCII.
The same source and options give the same bytes.
"""

import argparse
import io
import os
import shutil
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import RectifyError
from ..files import atomic_path, sha256
from .manifest import CALIBRATION, SPLITS, Index, Manifest
from .sources import Source, open_source
from .splits import class_splits, fixed_splits

BLOCK = 512


def build_shards(
    source: str,
    out: Path | str,
    *,
    name: str | None = None,
    format: Literal["raw", "png"] = "raw",
    size: int | None = None,
    val: float | None = None,
    test: float | None = None,
    calibration: float | None = None,
    seed: int = 0,
    shard_size: int = 10_000,
    root: Path | str | None = None,
    class_names: Sequence[str] | None = None,
    max_bad: float = 0.01,
    options: dict[str, Any] | None = None,
    progress: bool = False,
) -> Path:
    """Write a source as shards, index and manifest into the new folder `out`; return the folder.

    The folder appears whole or not at all. An official test split is kept; `val` and `test` are shares of what the
    source does not split itself (see the source's defaults). In a set for retrieval of unseen classes no two splits
    share a class: the shares are of classes, and `calibration` is one more split.

    Args:
        size: resize the shorter side to `size` and crop the centre; without it all images must have one size.
        seed: of the splits, independent of the training seed.
        shard_size: samples a shard.
        root: where a torchvision data set lies.
        max_bad: share of unreadable samples that may be skipped (their keys stand in the manifest).
        options: of the source `glyphs`.

    Raises:
        RectifyError: the source is wrong, too many samples are unreadable, or `out` exists or cannot be written.
    """
    out = Path(out).expanduser()
    if out.exists():
        raise RectifyError(f"OUT {out} exists; choose a new folder or remove it.")
    if shard_size < 1:
        raise RectifyError(f"shard_size is {shard_size}; at least 1 sample a shard is needed.")
    if size is not None and size < 1:
        raise RectifyError(f"size is {size}; give pixels, at least 1.")
    if size is not None and source.startswith("blocks:"):
        raise RectifyError(f"size is {size}, but a square would cut through the blocks of {source}; leave it out.")
    for key, share in (("val", val), ("test", test), ("calibration", calibration), ("max_bad", max_bad)):
        if share is not None and not 0 <= share < 1:
            raise RectifyError(f"{key} is {share}; give a share in [0, 1).")
    opened = open_source(source, Path(root).expanduser() if root else None, class_names, options)
    if calibration and not opened.by_class:
        raise RectifyError(f"SOURCE {source!r} shares its classes between splits; calibration classes need a set for "
                           "retrieval, such as glyphs.")  # fmt: skip
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # beside the target, so that the final rename is atomic and two builders cannot meet
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.building."))
    except OSError as error:
        raise RectifyError(
            f"OUT {out} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
    try:
        writer = _Writer(folder, format, size, shard_size)
        writer.write(opened, max_bad, progress)
        kept = np.array(writer.kept)
        splits = _split(opened, kept, val, test, calibration, seed)
        origin = Path(source.removeprefix("blocks:")).expanduser()
        _finish(folder, writer, opened, kept, splits, name or out.name, sha256(origin) if origin.is_file() else "")
        folder.chmod(0o755)
        try:
            folder.replace(out)
        except OSError:
            if not (out / "manifest.json").is_file():  # else another process built the same meanwhile: take its work
                raise
    except OSError as error:
        raise RectifyError(f"OUT {out} cannot be written ({error.strerror or error}); free the disk.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out


def _split(
    source: Source, kept: np.ndarray, val: float | None, test: float | None, calibration: float | None, seed: int
) -> dict:
    labels, official_test = source.labels[kept], source.official_test[kept]
    val = source.val if val is None else val
    test = source.test if test is None else test
    if not source.by_class:
        if not official_test.any() and val + test >= 1:
            raise RectifyError(f"val is {val} and test {test}; their sum must be below 1, the rest is trained on.")
        splits = fixed_splits(labels, official_test, val, test, seed)
        if not len(splits["train"]):
            raise RectifyError(f"No sample is left to train on: val is {val} and test {test}; lower the shares.")
        return splits
    calibration = source.calibration if calibration is None else calibration
    return class_splits(labels, official_test, val, calibration, test, seed, source.by_class)


class _Writer:
    """Writes shards one after the other and remembers where each image lies."""

    def __init__(self, folder: Path, encoding: str, size: int | None, shard_size: int):
        self.folder, self.encoding, self.size, self.shard_size = folder, encoding, size, shard_size
        self.kept: list[int] = []
        self.keys: list[str] = []
        self.rows: list[tuple[int, int, int]] = []  # shard, offset, length
        self.sums: list[np.ndarray] = []  # per sample: sum and sum of squares per channel, exact in int64
        self.shards: list[dict] = []
        self.skipped: list[str] = []
        self.shape: tuple[int, ...] | None = None

    def write(self, source: Source, max_bad: float, progress: bool) -> None:
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


def _finish(
    folder: Path, writer: _Writer, source: Source, kept: np.ndarray, splits: dict, name: str, built_from: str
) -> None:
    labels = source.labels[kept]
    shard, offset, length = np.array(writer.rows, np.int64).T
    index = Index(np.array(writer.keys), labels, shard, offset, length, **splits)
    if len(set(writer.keys)) < len(writer.keys):
        raise RectifyError("Two samples have the same key; rename the files so that keys differ before the first dot.")
    index.save(folder / "index.npz")
    classes = len(source.class_names)
    ordered = {
        split: splits[split] for split in (*SPLITS, CALIBRATION) if len(splits.get(split, ())) or split in SPLITS
    }
    height, width, channels = writer.shape or (0, 0, 0)
    total, squares = np.stack(writer.sums)[splits["train"]].sum(0) / (len(splits["train"]) * height * width)
    std = np.sqrt(squares - total**2) / 255
    Manifest(
        name=name,
        classes=classes,
        class_names=[str(class_name) for class_name in source.class_names],
        channels=channels,
        height=height,
        width=width,
        encoding=writer.encoding,
        samples=len(kept),
        counts={split: np.bincount(labels[rows], minlength=classes).tolist() for split, rows in ordered.items()},
        mean=(total / 255).round(4).tolist(),
        std=std.round(4).tolist(),
        shards=writer.shards,
        index_sha256=sha256(folder / "index.npz"),
        skipped=writer.skipped,
        source_sha256=built_from,
    ).save(folder)


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m lightning_rectify.datamodules.build", description=__doc__)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--format", choices=("raw", "png"), default="raw")
    parser.add_argument("--name", help="name of the data set (default: the folder's)")
    parser.add_argument("--size", type=int, help="resize and crop the centre to SIZE x SIZE")
    parser.add_argument("--val", type=float, help="share of the training data held out for validation")
    parser.add_argument("--test", type=float, help="share of the test split where the source has none")
    parser.add_argument("--calibration", type=float, help="share of classes to calibrate on, in sets for retrieval")
    parser.add_argument("--seed", type=int, default=0, help="of the splits")
    parser.add_argument("--shard-size", type=int, default=10_000)
    parser.add_argument("--root", help="where a torchvision data set lies")
    parser.add_argument("--class-names", nargs="+")
    parser.add_argument("--max-bad", type=float, default=0.01, help="share of unreadable samples that may be skipped")
    options = vars(parser.parse_args(arguments))
    try:
        out = build_shards(**options, progress=sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR")))
    except RectifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
