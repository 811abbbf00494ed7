"""Imbalanced training splits: of each class a share of its samples, chosen in the index, so that no shard is copied."""

import numpy as np

from ..errors import RectifyError
from ..ratio import Number, Ratio
from .order import permutation


class Imbalance:
    """Which samples of a training split are kept; validation and test stay as they are, thus balanced if they were.

    A class keeps its first n samples in an order keyed by (seed, label), and n is its number of samples times its
    share, rounded down. So the choice is the same on every process and for every training seed, and what a smaller
    ratio keeps, a larger one keeps too. Classes are counted in the order of their labels; one that has no training
    sample is not counted. A subclass overrides `shares`.

    Args:
        ratio: samples of the smallest class over those of the largest, in (0, 1].
        seed: of the choice; not that of the training.
    """

    def __init__(self, ratio: Number, seed: int = 0):
        if not 0 < ratio <= 1:
            raise RectifyError(
                f"data.imbalance: ratio is {ratio}; it is the smallest class over the largest, in (0, 1], e.g. 0.1."
            )
        self.ratio, self.seed = float(ratio), seed

    def shares(self, classes: int) -> np.ndarray:
        """Return the share of each class that is kept, (classes,) in (0, 1]."""
        raise NotImplementedError

    def keep(self, indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return those of the indices (N,) that are kept, sorted.

        Args:
            labels: of all samples of the data set, by index.

        Raises:
            RectifyError: a class would be left without a sample.
        """
        found, counts = np.unique(labels[indices], return_counts=True)
        # a hair more, because 0.29 * 100 is below 29 in floating point
        wanted = np.floor(counts * self.shares(len(found)) + 1e-6).astype(int)
        if empty := np.flatnonzero(wanted == 0).tolist():
            raise RectifyError(
                f"data.imbalance: {type(self).__name__} with ratio {self.ratio:g} leaves none of the "
                f"{counts[empty[0]]} training samples of class {found[empty[0]]}; raise the ratio."
            )
        kept = []
        for label, count in zip(found.tolist(), wanted.tolist(), strict=True):
            members = np.sort(indices[labels[indices] == label])
            kept.append(members[permutation(len(members), -1, self.seed, label)[:count]])
        return np.sort(np.concatenate(kept)) if kept else indices


class StepImbalance(Imbalance):
    """Whole head classes, and tail classes with `ratio` of their samples each (Buda et al. 2018).

    Args:
        ratio: in (0, 1]; published as step-10 (0.1) and step-100 (0.01).
        tail: share of the classes in the tail, the last ones, rounded to the nearest number.
        seed: see Imbalance.
    """

    def __init__(self, ratio: Number = Ratio("0.1"), tail: float = 0.5, seed: int = 0):  # noqa: B008
        super().__init__(ratio, seed)
        if not 0 < tail < 1:
            raise RectifyError(f"data.imbalance: tail is {tail}; give the share of tail classes, in (0, 1).")
        self.tail = tail

    def shares(self, classes: int) -> np.ndarray:
        first = classes - round(self.tail * classes)
        if not 0 < first < classes:
            raise RectifyError(
                f"data.imbalance: a tail of {self.tail} is {classes - first} of {classes} classes; both the head and "
                "the tail need one."
            )
        return np.where(np.arange(classes) < first, 1.0, self.ratio)


class LongTail(Imbalance):
    """Class c of C keeps ratio^(c/(C-1)) of its samples: from all down to `ratio` of them (Cui et al. 2019).

    Args:
        ratio: in (0, 1]; published as exp-10 (0.1) and exp-100 (0.01).
        seed: see Imbalance.
    """

    def __init__(self, ratio: Number = Ratio("0.01"), seed: int = 0):  # noqa: B008
        super().__init__(ratio, seed)

    def shares(self, classes: int) -> np.ndarray:
        return self.ratio ** (np.arange(classes) / max(classes - 1, 1))
