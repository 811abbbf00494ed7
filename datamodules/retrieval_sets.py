"""The four retrieval benchmarks as their authors pack them; classes of the test split are never trained on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import RectifyError
from .sources import Source

Row = tuple[str, int, bool]
"""Path below the folder, class number, whether it is of the test split."""


def open_retrieval_set(kind: str, folder: Path) -> Source:
    """Open `cub`, `cars196`, `sop` or `inaturalist2018` in the folder that its archive unpacks to.

    The protocol's training classes are split further: 10 % of them for validation and 10 % for calibration, unless
    `build` says otherwise; `val: 0, calibration: 0` is the published protocol, which selects on nothing.

    Raises:
        RectifyError: the folder lacks a file of the archive.
    """
    try:
        rows, names = RETRIEVAL_SETS[kind](folder)
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, RectifyError):
            raise
        raise RectifyError(
            f"{kind}:{folder} is not the unpacked archive ({error}); give the folder that its archive makes."
        ) from error
    if not rows:
        raise RectifyError(f"{kind}:{folder} lists no image; unpack the archive again.")
    rows.sort(key=lambda row: (row[2], row[1]))  # classes to train on are numbered first; stable within a class
    classes = list(dict.fromkeys(number for _, number, _ in rows))
    place = {number: label for label, number in enumerate(classes)}
    labels = np.array([place[number] for _, number, _ in rows], np.int64)
    tests = np.array([test for _, _, test in rows])

    def image(position: int) -> np.ndarray:
        from PIL import Image

        with Image.open(folder / rows[position][0]) as picture:
            return np.asarray(picture.convert("RGB"))

    keys = [Path(path).with_suffix("").as_posix() for path, _, _ in rows]
    class_names = [names.get(number, str(number)) for number in classes]
    return Source(image, labels, class_names, tests, keys, val=0.1, calibration=0.1, by_class="train")


def _cub(folder: Path) -> tuple[list[Row], dict[int, str]]:
    """CUB-200-2011: the first 100 species to train on, the other 100 to test."""
    paths = [line.split()[1] for line in _lines(folder / "images.txt")]
    numbers = [int(path.split(".")[0]) for path in paths]
    names = {number: path.split("/")[0] for number, path in zip(numbers, paths, strict=True)}
    return [(f"images/{p}", number, number > 100) for p, number in zip(paths, numbers, strict=True)], names


def _cars196(folder: Path) -> tuple[list[Row], dict[int, str]]:
    """Cars-196: the first 98 models to train on, the other 98 to test."""
    from scipy.io import loadmat

    file = loadmat(folder / "cars_annos.mat", squeeze_me=True)
    rows = [(str(row["relative_im_path"]), int(row["class"])) for row in file["annotations"]]
    names = {number: str(name) for number, name in enumerate(file["class_names"], 1)}
    return [(path, number, number > 98) for path, number in rows], names


def _sop(folder: Path) -> tuple[list[Row], dict[int, str]]:
    """Stanford Online Products: its own lists, 11,318 products to train on and 11,316 to test."""
    rows: list[Row] = []
    for name, test in (("Ebay_train.txt", False), ("Ebay_test.txt", True)):
        for line in _lines(folder / name)[1:]:  # image_id class_id super_class_id path
            _, number, _, path = line.split()
            rows.append((path, int(number), test))
    return rows, {}


def _inaturalist2018(folder: Path) -> tuple[list[Row], dict[int, str]]:
    """iNaturalist-2018 in the split of Brown et al. 2020 (Smooth-AP), two lists of paths; the class is the folder."""
    rows: list[Row] = []
    for name, test in (("Inat_dataset_splits/Inaturalist_train_set1.txt", False),
                       ("Inat_dataset_splits/Inaturalist_test_set1.txt", True)):  # fmt: skip
        rows += [(path, int(Path(path).parent.name), test) for path in _lines(folder / name)]
    return rows, {}


def _lines(path: Path) -> Sequence[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


RETRIEVAL_SETS: dict[str, Callable[[Path], tuple[list[Row], dict[int, str]]]] = {
    "cub": _cub,
    "cars196": _cars196,
    "sop": _sop,
    "inaturalist2018": _inaturalist2018,
}
