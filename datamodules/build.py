"""Build shards: `python -m lightning_rectify.datamodules.build SOURCE OUT [--format raw|png] …`.

SOURCE is `digits`, `glyphs`, `torchvision:NAME`, an `.npz` file, a folder of IDX files, a folder with one folder per
class, or a retrieval benchmark: `cub:FOLDER`, `cars196:FOLDER`, `sop:FOLDER`, `inaturalist2018:FOLDER`; `blocks:SOURCE`
puts a null block above or below each image.
Shards are tar files in WebDataset layout: `<key>.u8` or `<key>.png`, then `<key>.cls` with the label in ASCII.
The same source and options give the same bytes.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import RectifyError
from ..files import sha256
from .manifest import CALIBRATION, SPLITS, Index, Manifest
from .shard_writer import ShardWriter
from .sources import Source, open_source
from .splits import class_splits, fixed_splits


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
        writer = ShardWriter(folder, format, size, shard_size)
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


def _finish(
    folder: Path, writer: ShardWriter, source: Source, kept: np.ndarray, splits: dict, name: str, built_from: str
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
