"""Fixed splits: stratified within classes, or by whole classes."""

from typing import Literal

import numpy as np
import torch

from ..errors import RectifyError
from ..randomness import keyed_generator


def stratified(labels: np.ndarray, share: float, seed: int, stream: str) -> np.ndarray:
    """Return a bool mask (N,) of `share` of the samples, drawn from every class alike (rounded to the nearest)."""
    if not 0 <= share < 1:
        raise RectifyError(f"The {stream} share is {share}; give a share in [0, 1).")
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=keyed_generator("split", stream, seed, int(label))).numpy()
        chosen[members[order[: round(share * len(members))]]] = True
    return chosen


def fixed_splits(labels: np.ndarray, official_test: np.ndarray, val: float, test: float, seed: int) -> dict:
    """Return sorted index arrays `train`, `val`, `test`; an official test split is kept and `test` then ignored."""
    is_test = official_test if official_test.any() else stratified(labels, test, seed, "test")
    rest = np.flatnonzero(~is_test)
    share = val if official_test.any() else val / max(1 - test, 1e-9)
    is_val = stratified(labels[rest], share, seed, "val")
    return {"train": rest[~is_val], "val": rest[is_val], "test": np.flatnonzero(is_test)}


def class_splits(
    labels: np.ndarray,
    official_test: np.ndarray,
    val: float,
    calibration: float,
    test: float,
    seed: int,
    pool: Literal["train", "test"] = "train",
) -> dict:
    """Return sorted index arrays `train`, `val`, `calibration` and `test` that share no class.

    Args:
        val, calibration, test: shares of classes; `test` of all and only without an official test split, the other two
            of the classes of `pool`.
        pool: the split whose classes `val` and `calibration` are taken out of.

    Raises:
        RectifyError: a class is in the training and in the test split, or a split that is asked for gets no class.
    """
    classes = np.unique(labels)
    test_classes = np.unique(labels[official_test])
    if not len(test_classes):
        test_classes = _drawn(classes, test, seed, "test classes")
    if both := set(labels[~official_test & np.isin(labels, test_classes)]) if official_test.any() else set():
        raise RectifyError(
            f"Class {min(both)} is in the training and in the test split; retrieval needs unseen classes."
        )
    rest = np.setdiff1d(classes, test_classes) if pool == "train" else test_classes
    val_classes = _drawn(rest, val, seed, "val classes")
    calibration_classes = _drawn(
        np.setdiff1d(rest, val_classes), min(calibration / max(1 - val, 1e-9), 1.0), seed, "calibration classes"
    )
    held = np.concatenate([val_classes, calibration_classes])
    test_classes = np.setdiff1d(test_classes, held)
    parts = {"val": val_classes, "calibration": calibration_classes, "test": test_classes}
    parts["train"] = np.setdiff1d(classes, np.concatenate([held, test_classes]))
    for split, share in (("train", 1.0), ("test", 1.0), ("val", val), ("calibration", calibration)):
        if share and len(parts[split]) < 2:
            raise RectifyError(
                f"The {split} split gets {len(parts[split])} of {len(classes)} classes, at least 2 are needed; "
                "change the shares build.val, build.calibration and build.test."
            )
    return {split: np.flatnonzero(np.isin(labels, chosen)) for split, chosen in parts.items()}


def _drawn(classes: np.ndarray, share: float, seed: int, stream: str) -> np.ndarray:
    if not 0 <= share <= 1:
        raise RectifyError(f"The share of {stream} is {share}; give a share in [0, 1).")
    order = torch.randperm(len(classes), generator=keyed_generator("split", stream, seed)).numpy()
    return np.sort(classes[order[: round(share * len(classes))]])
