"""Where shards are built from: each source gives labels and keys at once and images one by one."""

import gzip
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import RectifyError, did_you_mean

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"}
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# sets that are drawn and not read: the file here and its function; files are imported on use, as they need Source
DRAWN = {"glyphs": (".glyphs", "glyph_source"), "two_gaussians": (".gaussian_pair", "gaussian_source")}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass
class Source:
    """Samples in a fixed order; the position is the stable index.

    Attributes:
        image: position -> (H, W, C) uint8.
        labels: (N,) int64.
        official_test: (N,) bool, the data set's own test split; all False if it has none.
        keys: public names, unique; `<split>/<number>` where the data set has none.
        val, test, calibration: default shares of the splits the data set does not bring.
        by_class: classes are not shared between splits (retrieval of unseen classes): shares are then of classes, and
            those of val and calibration are taken out of the classes of this split, `train` or `test`.
    """

    image: Callable[[int], np.ndarray]
    labels: np.ndarray
    class_names: Sequence[str]
    official_test: np.ndarray
    keys: Sequence[str]
    val: float = 0.1
    test: float = 0.15
    calibration: float = 0.0
    by_class: Literal["", "train", "test"] = ""


def open_source(
    source: str,
    root: Path | None = None,
    class_names: Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Source:
    """Open a drawn set, `digits`, `torchvision:NAME`, an `.npz` file, a folder of IDX files, or a folder by class.

    `blocks:SOURCE` opens any of these with a null block above or below each image (`with_null_blocks`).

    Args:
        root: where a torchvision data set has been downloaded to.
        class_names: names to use where the source has none.
        options: of the drawn sets `glyphs` (see `glyph_source`) and `two_gaussians` (see `gaussian_source`).

    Raises:
        RectifyError: there is no such source, or it lacks a part.
    """
    from .retrieval_sets import RETRIEVAL_SETS, open_retrieval_set  # here, because it needs Source

    kind, _, name = source.partition(":")
    path = Path(source).expanduser()
    if options and source not in DRAWN:
        raise RectifyError(f"SOURCE {source!r} takes no options, but {', '.join(options)} is given; remove it.")
    if source == "digits":
        opened = _digits()
    elif source in DRAWN:
        opened = _drawn(source, options or {})
    elif kind == "blocks":
        from .null_blocks import with_null_blocks  # here for the same reason

        opened = with_null_blocks(open_source(name, root, class_names))
    elif kind in RETRIEVAL_SETS:
        opened = open_retrieval_set(kind, Path(name).expanduser())
    elif kind == "torchvision":
        opened = _torchvision(name, root)
    elif path.is_file() and path.suffix == ".npz":
        opened = _npz(path)
    elif path.is_dir():
        opened = _idx(path) if any(path.glob("*-ubyte*")) else _folder(path)
    else:
        retrieval = (f"{kind}:FOLDER" for kind in RETRIEVAL_SETS)
        known = ["digits", *DRAWN, "torchvision:NAME", "blocks:SOURCE", *retrieval]
        raise RectifyError(
            f"SOURCE {source!r} is neither a folder of images or IDX files, an .npz file, digits, {', '.join(DRAWN)}, "
            f"torchvision:NAME nor blocks:SOURCE; check the path.{did_you_mean(source, known)}"
        )
    classes = int(opened.labels.max(initial=0)) + 1
    if class_names is not None:
        if len(class_names) < classes:
            raise RectifyError(f"class_names has {len(class_names)} names for {classes} classes; give one each.")
        opened.class_names = list(class_names)
    if len(opened.labels) == 0:
        raise RectifyError(f"SOURCE {source!r} holds no sample.")
    return opened


def _from_arrays(parts: dict[str, tuple[np.ndarray, np.ndarray]], origin: str, **shares: float) -> Source:
    """Join (images (n, H, W[, C]), labels (n,)) of `train` (or `all`) and `test`."""
    arrays, labels, keys, tests = [], [], [], []
    for split, (images, targets) in parts.items():
        if len(images) != len(targets):
            raise RectifyError(f"{origin}: {split} has {len(images)} images and {len(targets)} labels.")
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise RectifyError(f"{origin}: {split} images are {images.dtype} {images.shape}, not (n, H, W[, C]) uint8.")
        arrays.append(images)
        labels.append(targets.astype(np.int64).reshape(-1))
        keys += [f"{split}/{number:06d}" for number in range(len(images))]
        tests.append(np.full(len(images), split == "test"))
    starts = np.cumsum([0] + [len(images) for images in arrays])

    def image(position: int) -> np.ndarray:
        part = int(np.searchsorted(starts, position, side="right")) - 1
        picture = arrays[part][position - starts[part]]
        return picture if picture.ndim == 3 else picture[..., None]

    label = np.concatenate(labels)
    if (label < 0).any():
        raise RectifyError(f"{origin}: label {label.min()} is negative; labels count from 0.")
    names = [str(number) for number in range(int(label.max(initial=0)) + 1)]
    return Source(image, label, names, np.concatenate(tests), keys, **shares)  # type: ignore[arg-type]


def _drawn(source: str, options: dict[str, Any]) -> Source:
    file, function = DRAWN[source]
    draw = getattr(importlib.import_module(file, __package__), function)
    try:
        return draw(**options)
    except TypeError as error:
        known = inspect.signature(draw).parameters
        wrong = next((name for name in options if name not in known), "")
        raise RectifyError(
            f"{source}: the option {wrong} is unknown or {error}.{did_you_mean(wrong, known)}"
        ) from error


def _digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # sixteen grey levels on 8x8 pixels
    return _from_arrays({"all": (images, digits.target)}, "digits", val=0.15, test=0.15)


def _npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            wanted = (
                {"train": "train_", "test": "test_"} if "train_images" in names else {"all": ""}
            )  # what MedMNIST and cifar10.py write, or one set without an official split
            missing = [f"{p}{n}" for p in wanted.values() for n in ("images", "labels") if f"{p}{n}" not in names]
            if missing:
                raise RectifyError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(names))}.")
            parts = {split: (file[f"{p}images"], file[f"{p}labels"]) for split, p in wanted.items()}
    except (OSError, ValueError) as error:
        if isinstance(error, RectifyError):
            raise
        raise RectifyError(f"{path} cannot be read as an .npz file without pickles ({error}).") from error
    source = _from_arrays(parts, str(path))
    if path.stem == "cifar10":
        source.class_names = list(CIFAR10_CLASSES)
    return source


def _idx(folder: Path) -> Source:
    parts = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        parts[split] = (
            _read_idx(_find_idx(folder, f"{stem}-images-idx3-ubyte")),
            _read_idx(_find_idx(folder, f"{stem}-labels-idx1-ubyte")),
        )
    source = _from_arrays(parts, str(folder))
    if "fashion" in folder.name.lower():
        source.class_names = list(FASHION_MNIST_CLASSES)
    return source


def _find_idx(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.gz", folder / stem, folder / stem.replace("-idx", ".idx")):
        if path.is_file():
            return path
    raise RectifyError(f"{folder} lacks {stem}[.gz]; a folder of IDX files needs images and labels of train and t10k.")


def _read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, type 8, the number of sizes, the sizes (big endian), the values."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError) as error:
        raise RectifyError(f"{path} cannot be unpacked ({error}); fetch it again.") from error
    if data[:3] != b"\0\0\x08" or len(data) < 4:
        raise RectifyError(f"{path} is no IDX file of unsigned bytes.")
    sizes = np.frombuffer(data, ">u4", count=data[3], offset=4).astype(int)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes))
    if len(values) != sizes.prod():
        raise RectifyError(f"{path} holds {len(values)} bytes, its header promises {sizes.prod()}; fetch it again.")
    return values.reshape(sizes)


def _torchvision(name: str, root: Path | None) -> Source:
    from torchvision import datasets

    from ..files import data_home

    root = root or data_home() / "torchvision"
    kind = getattr(datasets, name, None)
    if not isinstance(kind, type):
        raise RectifyError(f"torchvision has no data set {name!r}.{did_you_mean(name, datasets.__all__)}")
    sets = _torchvision_splits(name, kind, root)
    targets = [_integer_targets(name, data) for data in sets.values()]
    opened, first = list(sets.values()), len(targets[0])

    def image(position: int) -> np.ndarray:
        part, offset = (0, 0) if position < first else (1, first)
        picture = np.asarray(opened[part][position - offset][0])
        return picture if picture.ndim == 3 else picture[..., None]

    labels = np.concatenate(targets)
    keys = [f"{split}/{n:06d}" for split, target in zip(sets, targets, strict=True) for n in range(len(target))]
    names = getattr(opened[0], "classes", None) or [str(n) for n in range(int(labels.max(initial=0)) + 1)]
    return Source(image, labels, list(names), np.arange(len(labels)) >= first, keys)


def _torchvision_splits(name: str, kind: type, root: Path) -> dict[str, Any]:
    """The sets `train` and `test`, or `all` where the class takes neither `train` nor `split`."""
    takes = inspect.signature(kind).parameters
    common = {key: value for key, value in (("root", root), ("download", False)) if key in takes}
    parts: dict[str, dict[str, Any]] = {"all": {}}
    if "train" in takes:
        parts = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in takes:
        parts = {split: {"split": split} for split in ("train", "test")}
    try:
        return {split: kind(**common, **own) for split, own in parts.items()}
    except Exception as error:  # every class has errors of its own for files that are not there
        reason = str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__
        raise RectifyError(
            f"torchvision:{name} cannot be opened under {root} ({reason}); download it there or set root."
        ) from error


def _integer_targets(name: str, data: Any) -> np.ndarray:
    found = next((getattr(data, key) for key in ("targets", "labels", "_labels") if hasattr(data, key)), None)
    try:
        targets = np.asarray(found)
    except ValueError:  # lists of unequal length
        targets = np.empty(0, object)
    if found is None or targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer) or len(targets) != len(data):
        raise RectifyError(f"torchvision:{name} has no integer label for each image; choose a classification set.")
    return targets.astype(np.int64)


def _folder(folder: Path) -> Source:
    """One folder per class, or `train/` and `test/` with one folder per class each."""
    roots = {"train": folder / "train", "test": folder / "test"}
    if not roots["train"].is_dir():
        roots = {"": folder}
    roots = {split: root for split, root in roots.items() if root.is_dir()}
    class_names = sorted({path.name for root in roots.values() for path in root.iterdir() if path.is_dir()})
    if not class_names:
        raise RectifyError(f"{folder} holds no class folders; images are labelled by the folder they stand in.")
    files, labels, tests = [], [], []
    for split, root in roots.items():
        for label, name in enumerate(class_names):
            found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            files += found
            labels += [label] * len(found)
            tests += [split == "test"] * len(found)
    keys = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    if len(set(keys)) < len(keys):  # a.png beside a.jpg
        keys = [path.relative_to(folder).as_posix() for path in files]

    def image(position: int) -> np.ndarray:
        from PIL import Image

        with Image.open(files[position]) as picture:
            grey = picture.mode in ("L", "1", "I;16")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))
        return pixels[..., None] if grey else pixels

    return Source(image, np.array(labels, np.int64), class_names, np.array(tests, bool), keys)
