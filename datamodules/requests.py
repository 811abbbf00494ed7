"""A request to forget: which training samples a class list, a share, an index list or a file of keys stands for."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RectifyError, did_you_mean
from .manifest import CALIBRATION, SPLITS, Index
from .order import permutation
from .request_files import read_indices, read_keys, short_list

KEY_FILES = (".csv", ".json", ".parquet")
_FORMS = "class:3,5, fraction:0.1, stratified:0.1, index:FILE, or a .csv, .json or .parquet file of keys"


@dataclass(frozen=True)
class ForgetRequest:
    """The samples to forget.

    Attributes:
        requests: as they were given.
        index: (n,) int64, sorted, all in the training split.
        classes: class numbers that are forgotten as a whole.
        keys_sha256: of the sample keys in sorted order, one a line; it tells two requests apart without naming a key.
    """

    requests: tuple[str, ...]
    index: np.ndarray
    classes: tuple[int, ...]
    keys_sha256: str


def read_request(
    requests: str | Sequence[str], index: Index, train: np.ndarray, class_names: Sequence[str], seed: int = 0
) -> ForgetRequest:
    """Return the union of the given requests.

    `class:3,5` takes all training samples of classes by number or name. `fraction:0.1` takes that share of the training
    samples uniformly, `stratified:0.1` of each class (both rounded down; with one seed a larger share contains a
    smaller one). `index:FILE` takes sample indices (text, JSON or NumPy), a CSV, JSON or Parquet file takes keys.

    Args:
        train: (N,) sorted indices that training uses.

    Raises:
        RectifyError: a request is unknown or empty, names samples that do not exist or are not in the training split,
            or all together name every sample.
    """
    given = (requests,) if isinstance(requests, str) else tuple(requests)
    if not given:
        raise RectifyError(f"data.forget is empty; give {_FORMS}.")
    found = np.unique(np.concatenate([_one(text, index, train, class_names, seed) for text in given]))
    wanted = found[np.isin(found, train, assume_unique=True)]
    if len(wanted) < len(found):
        warnings.warn(f"data.forget: {len(found) - len(wanted)} of {len(found)} samples are not used in training.")
    named = ", ".join(given)[:80]
    if not len(wanted):
        raise RectifyError(f"data.forget {named} asks for no training sample; name at least one.")
    if len(wanted) == len(train):
        raise RectifyError(f"data.forget {named} asks for all {len(train)} training samples; leave some to retain.")
    keys = "\n".join(sorted(map(str, index.key[wanted])))
    labels = index.label[train]
    left = set(labels[~np.isin(train, wanted, assume_unique=True)].tolist())
    classes = sorted(set(index.label[wanted].tolist()) - left)
    return ForgetRequest(given, wanted, tuple(classes), hashlib.sha256(keys.encode()).hexdigest())


def _one(text: str, index: Index, train: np.ndarray, class_names: Sequence[str], seed: int) -> np.ndarray:
    kind, colon, value = text.strip().partition(":")
    if colon and kind == "class":
        return _of_classes(value, index.label[train], train, class_names)
    if colon and kind in ("fraction", "stratified"):
        return _of_share(kind, value, index.label[train], train, seed)
    if colon and kind == "index":
        return _in_training(read_indices(value, len(index.key)), value, index)
    if text.strip().lower().endswith(KEY_FILES):
        return _in_training(_of_keys(text.strip(), index.key), text, index)
    hint = did_you_mean(kind, ("class", "fraction", "stratified", "index")) if colon else ""
    raise RectifyError(f"data.forget {text!r} is no request; give {_FORMS}.{hint}")


def _of_classes(value: str, labels: np.ndarray, train: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise RectifyError("data.forget class: names no class; give numbers or names such as class:3,5.")
    return train[np.isin(labels, [_class_number(name, class_names) for name in names])]


def _class_number(name: str, class_names: Sequence[str]) -> int:
    number = int(name) if name.isdecimal() and int(name) < len(class_names) else None
    named = class_names.index(name) if name in class_names else None
    if number is not None and named not in (None, number):
        raise RectifyError(f"data.forget class:{name} is the number of one class and the name of another; use index:.")
    if number is None and named is None:
        raise RectifyError(
            f"data.forget class:{name} is unknown; give a number below {len(class_names)} or a class name."
            f"{did_you_mean(name, class_names)}"
        )
    return number if named is None else named  # type: ignore[return-value]


def _of_share(kind: str, value: str, labels: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    try:
        share = float(value)
    except ValueError:
        share = float("nan")
    if not 0 < share < 1:
        raise RectifyError(f"data.forget {kind}:{value} is no share; give a number between 0 and 1 such as 0.1.")
    order = permutation(len(train), seed)
    groups = [order] if kind == "fraction" else [order[labels[order] == label] for label in np.unique(labels)]
    return train[np.concatenate([group[: int(share * len(group) + 1e-9)] for group in groups])]


def _of_keys(path: str, known: np.ndarray) -> np.ndarray:
    keys = np.array(read_keys(path), dtype=str)
    order = np.argsort(known)
    place = np.searchsorted(known, keys, sorter=order).clip(max=len(known) - 1)
    found = order[place]
    unknown = keys[known[found] != keys]
    if len(unknown):
        raise RectifyError(
            f"data.forget {path}: {len(unknown)} of {len(keys)} keys are in no split ({short_list(unknown)}); "
            "correct them, nothing was forgotten."
        )
    return found


def _in_training(found: np.ndarray, path: str, index: Index) -> np.ndarray:
    for split in (*SPLITS[1:], CALIBRATION):
        held = found[np.isin(found, getattr(index, split))]
        if len(held):
            raise RectifyError(
                f"data.forget {path}: {len(held)} samples are in the {split} split ({short_list(index.key[held])}), "
                "which no model learns; leave them out."
            )
    return found.astype(np.int64)
