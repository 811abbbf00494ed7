"""Fixed, stratified splits."""

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
