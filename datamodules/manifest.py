"""What a folder of shards says about itself: `manifest.json`, and `index.npz` with a row for every sample."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RectifyError
from ..files import atomic_path, sha256

FORMAT = 1
SPLITS = ("train", "val", "test")
CALIBRATION = "calibration"  # a fourth split, of classes of its own, in sets whose splits share no class


@dataclass
class Manifest:
    """A data set in shards.

    Attributes:
        format: version of this layout.
        encoding: `raw` (uint8 in C, H, W order, every sample at the same pitch) or `png`.
        counts: samples of each class, per split; with a calibration split only where the set has one.
        mean, std: per channel over the training split, of pixels in [0, 1].
        shards: `{"name", "bytes", "sha256", "samples", "pitch"}`; the pitch is 0 where it varies.
        index_sha256: of `index.npz`.
        skipped: keys of source samples that could not be read.
        source_sha256: of the file they were built from; empty for what is no file.
    """

    name: str
    classes: int
    class_names: list[str]
    channels: int
    height: int
    width: int
    encoding: str
    samples: int
    counts: dict[str, list[int]]
    mean: list[float]
    std: list[float]
    shards: list[dict[str, Any]]
    index_sha256: str
    skipped: list[str] = field(default_factory=list)
    source_sha256: str = ""
    format: int = FORMAT
    folder: Path = field(default=Path(), repr=False)

    def save(self, folder: Path) -> None:
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        with atomic_path(folder / "manifest.json") as path:
            path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass
class Index:
    """One row a sample, sorted by index: where it lies, and the fixed splits (sorted indices).

    Attributes:
        key: (N,) unicode. label: (N,) int64, -1 where missing. shard: (N,) number. offset, length: bytes of the image.
    """

    key: np.ndarray
    label: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    calibration: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def save(self, path: Path) -> None:
        arrays = dict(vars(self), index=np.arange(len(self.key)))
        if not len(self.calibration):
            del arrays[CALIBRATION]
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)


def read_manifest(path: Path | str) -> tuple[Manifest, Index]:
    """Read `manifest.json` (or the folder it stands in) and its index, and check that they and the shards fit.

    Raises:
        RectifyError: a file is missing, empty, cut short, of another version, or contradicts the manifest.
    """
    path = Path(path).expanduser()
    path = path / "manifest.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise RectifyError(
                f"{path} has format {values.get('format')}, this version reads {FORMAT}; build the shards again."
            )
        manifest = Manifest(**values, folder=path.parent)
    except FileNotFoundError as error:
        raise RectifyError(
            f"{path} does not exist; build the shards with lightning_rectify.datamodules.build."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError, OSError) as error:
        raise RectifyError(f"{path} is no manifest of shards ({error}); build the shards again.") from error
    if len(manifest.class_names) != manifest.classes:
        raise RectifyError(
            f"{path}: classes is {manifest.classes} but {len(manifest.class_names)} class_names are given; correct one."
        )
    for shard in manifest.shards:
        _check_shard(path.parent / Path(shard["name"]).name, shard["bytes"])
    return manifest, _read_index(path.parent / "index.npz", manifest)


def _check_shard(path: Path, expected: int) -> None:
    if not path.is_file():
        raise RectifyError(f"Shard {path} is missing; restore it or build the shards again.")
    size = path.stat().st_size
    if size == 0:
        raise RectifyError(f"Shard {path} is empty; restore it or build the shards again.")
    if size != expected:
        what = "cut short" if size < expected else "longer than it was"
        raise RectifyError(
            f"Shard {path} is {what}: {size} bytes, the manifest says {expected}; restore or rebuild it."
        )


def _read_index(path: Path, manifest: Manifest) -> Index:
    if not path.is_file() or sha256(path) != manifest.index_sha256:
        raise RectifyError(f"{path} is missing or is not the one of its manifest; build the shards again.")
    with np.load(path, allow_pickle=False) as file:
        return Index(**{name: file[name] for name in Index.__dataclass_fields__ if name != CALIBRATION or name in file})


def verify_shards(manifest: Manifest) -> None:
    """Compare the SHA-256 of every shard with the manifest (reads everything).

    Raises:
        RectifyError: a shard has changed since it was built.
    """
    for shard in manifest.shards:
        path = manifest.folder / Path(shard["name"]).name
        if sha256(path) != shard["sha256"]:
            raise RectifyError(f"Shard {path} has changed since it was built; restore it or build the shards again.")
