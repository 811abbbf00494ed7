"""Label noise after the split: classes that overlap, by a known amount."""

from dataclasses import replace

import numpy as np

from ..errors import RectifyError
from ..ratio import Number, Ratio
from .manifest import Index
from .order import permutation

SPLITS = ("train", "val", "test")


class LabelNoise:
    """Gives a share of each class's samples another label, split by split, the same on every process and seed.

    Exactly floor(rate · n) of the n samples of a class in a split change, the first in an order keyed by (seed, split,
    label). With `to: fixed` all go to one other class, as in the study of d-Mixup (Chidambaram and Ge 2024); with
    `uniform` they are dealt evenly over the other classes. Noise on every split is class overlap: the test labels come
    from the distribution that was trained on. Noise on `train` alone is corruption.

    Args:
        rate: share that changes, in [0, 1), of every class or one number for each.
        to: `fixed` or `uniform`.
        splits: which splits are changed.
        seed: of the choice; not that of the training.
    """

    def __init__(
        self,
        rate: Number | list[Ratio],
        to: str = "fixed",
        splits: tuple[str, ...] = ("train",),
        seed: int = 0,
    ):
        rates = list(rate) if isinstance(rate, list | tuple) else [rate]
        if not rates or not all(0 <= float(each) < 1 for each in rates):
            raise RectifyError(f"data.label_noise: rate is {rate}; give a share in [0, 1), or a list with one a class.")
        if to not in ("fixed", "uniform"):
            raise RectifyError(f"data.label_noise: to is {to!r}; choose fixed or uniform.")
        if not splits or set(splits) - set(SPLITS):
            raise RectifyError(f"data.label_noise: splits is {list(splits)}; choose among {', '.join(SPLITS)}.")
        self.rate, self.to, self.splits, self.seed = [float(each) for each in rates], to, tuple(splits), seed

    def rates(self, classes: int) -> np.ndarray:
        """Return the share of each class, (classes,)."""
        if len(self.rate) not in (1, classes):
            raise RectifyError(
                f"data.label_noise: {len(self.rate)} rates for {classes} classes; give one, or one each."
            )
        return np.broadcast_to(np.array(self.rate), classes)

    def other(self, classes: int, present: np.ndarray | None = None) -> np.ndarray:
        """Return the class that each class's samples go to under `fixed`: a cyclic order keyed by the seed.

        Args:
            classes: of the data set.
            present: those that occur in the split, all by default; the others keep their own number.
        """
        present = np.arange(classes) if present is None else present
        if len(present) < 2:
            raise RectifyError("data.label_noise: the data have one class; noise needs another to go to.")
        order = permutation(classes, -2, self.seed, 0)
        order = order[np.isin(order, present)]
        other = np.arange(classes)
        other[order] = np.roll(order, -1)
        return other

    def apply(self, index: Index, ids: dict[str, np.ndarray], classes: int) -> Index:
        """Return an index with the changed labels; the one given stays as it is.

        Args:
            index: of the data set.
            ids: the usable samples of each split.
            classes: of the data set.
        """
        label, rates = index.label.copy(), self.rates(classes)
        for number, split in enumerate(SPLITS):
            if split not in self.splits or not len(ids[split]):
                continue
            # where classes are not shared between splits, none of another split's may come in
            present = np.unique(index.label[ids[split]])
            other = self.other(classes, present)
            for own in present:
                members = np.sort(ids[split][index.label[ids[split]] == own])
                chosen = members[permutation(len(members), number, self.seed, int(own) + 1)]
                chosen = chosen[: int(np.floor(len(members) * rates[own] + 1e-6))]
                if self.to == "fixed":
                    label[chosen] = other[own]
                else:
                    away = present[present != own]
                    # in an order of its own, or the first numbers would get what does not divide evenly
                    away = away[permutation(len(away), number, self.seed, -int(own) - 1)]
                    label[chosen] = away[np.arange(len(chosen)) % len(away)]
        return replace(index, label=label)
