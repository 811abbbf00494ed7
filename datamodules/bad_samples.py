"""Bad samples are skipped, counted and named, up to a share."""

import math
import warnings
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from ..errors import RectifyError
from .manifest import CALIBRATION, SPLITS, Index


class BadSamples:
    """Keeps the keys of samples that cannot be used; a key counts once however often it is met.

    Args:
        share: largest tolerated share of `total`.
        total: how many there are.
        what: what they are, for the messages.
        readers: processes that share the reading: each meets only its part of the bad ones, so its own count is
            compared with the part it reads.
        epoch: tells the epoch at hand; in another one a process reads another part.
    """

    def __init__(
        self,
        share: float,
        total: int,
        what: str = "samples",
        readers: int = 1,
        epoch: Callable[[], int] = lambda: 0,
    ):
        if not 0 <= share < 1:
            raise RectifyError(f"data.max_bad_samples is {share}; give a share in [0, 1).")
        self.share, self.total, self.what = share, total, what
        self.readers, self.epoch = readers, epoch
        self.reasons: dict[str, str] = {}
        self._own = 0
        self._epochs: set[int] = set()

    def add(self, key: str, reason: str, everywhere: bool = False) -> None:
        """Count a sample; `everywhere` if every process meets it.

        Raises:
            RectifyError: more than the share is bad.
        """
        if key in self.reasons:
            return
        self.reasons[key] = reason
        if len(self.reasons) > self.share * self.total:
            self._stop(len(self.reasons), self.total, key, reason)
        if not everywhere and self.readers > 1:
            self._own += 1
            self._epochs.add(self.epoch())
            # what is expected after so many epochs of one part in `readers`, every time another part
            read = self.total * (1 - (1 - 1 / self.readers) ** len(self._epochs))
            allowed = self.share * read
            # three standard deviations: bad samples do not fall evenly on the processes
            if self._own > allowed + 3 * math.sqrt(allowed):
                self._stop(self._own, round(read), key, reason)
        if len(self.reasons) <= 10:
            warnings.warn(f"Bad {self.what.removesuffix('s')} {key} skipped: {reason}.", stacklevel=2)

    def _stop(self, bad: int, total: int, key: str, reason: str) -> NoReturn:
        raise RectifyError(
            f"{bad} of {total} {self.what} are bad, more than data.max_bad_samples {self.share:g} allows; the last is "
            f"{key}: {reason}. Repair the shards or raise the share."
        )


def usable_ids(index: Index, classes: int, bad: BadSamples) -> dict[str, np.ndarray]:
    """Return the indices of each split without those whose label is missing or outside the classes."""
    labels, keys = index.label, index.key
    wrong = (labels < 0) | (labels >= classes)
    for sample in np.flatnonzero(wrong):
        what = "it has no label" if labels[sample] < 0 else f"its label {labels[sample]} is not below {classes}"
        bad.add(str(keys[sample]), what, everywhere=True)
    return {split: ids[~wrong[ids]] for split in (*SPLITS, CALIBRATION) for ids in [getattr(index, split)]}
