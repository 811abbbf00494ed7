"""Accuracy class by class, and what it says of the classes a network serves worst."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RectifyError
from .sums import SumMetric

TAIL = 0.3
"""The share of worst classes of RA-Tail-30 (Sow et al. 2024)."""


@dataclass  # not frozen: torchmetrics rebuilds what compute() returns
class ClassAccuracies:
    """Counts of one evaluation.

    Attributes:
        count: (K,) int64 samples of each class.
        hits: (K,) int64 of them that count as right.
    """

    count: Tensor
    hits: Tensor

    @property
    def samples(self) -> int:
        return int(self.count.sum())

    @property
    def accuracy(self) -> Tensor:
        """(K,) float64 share of hits; NaN in a class without samples."""
        return self.hits.double() / self.count

    def overall(self) -> float:
        """Share of hits among all samples; NaN without samples."""
        return float(self.hits.sum().double() / self.count.sum())

    def scores(self) -> dict[str, float]:
        """The five figures by name: `""` (overall), `worst_class`, `tail30`, `class_std`, `disparity`."""
        accuracy = self.accuracy
        return {
            "": self.overall(),
            "worst_class": worst_class_accuracy(accuracy),
            "tail30": tail_accuracy(accuracy),
            "class_std": class_accuracy_std(accuracy),
            "disparity": accuracy_disparity(accuracy),
        }


class ClassAccuracy(SumMetric):
    """Counts hits by class: `update(right (n,) bool, label (n,) int64)`, `compute()` gives `ClassAccuracies`.

    What is right is the caller's to say: the prediction on an image, or on every image of an attack. State: 2·K
    integers, reduced by sum.

    Args:
        classes: K.
    """

    higher_is_better: bool | None = True
    count: Tensor
    hits: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.add_sum("count", classes, dtype=torch.int64)
        self.add_sum("hits", classes, dtype=torch.int64)

    def update(self, right: Tensor, label: Tensor) -> None:
        self.count.index_add_(0, label, torch.ones_like(label))
        self.hits.index_add_(0, label, right.to(label.dtype))

    def compute(self) -> ClassAccuracies:
        return ClassAccuracies(self.count.clone(), self.hits.clone())


def worst_class_accuracy(accuracy: Tensor) -> float:
    """The lowest class accuracy; classes without samples (NaN) do not count here and below."""
    return float(_present(accuracy).min()) if len(_present(accuracy)) else math.nan


def tail_accuracy(accuracy: Tensor, share: float = TAIL) -> float:
    """Mean accuracy of the worst ⌈share·K⌉ of K classes, each class counting alike.

    Raises:
        RectifyError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise RectifyError(f"share is {share}; it is a part of the classes, in (0, 1].")
    present = _present(accuracy).sort().values
    worst = math.ceil(share * len(present) - 1e-9)  # 0.3 of 10 is 3, whatever floats say
    return float(present[:worst].mean()) if worst else math.nan


def class_accuracy_std(accuracy: Tensor) -> float:
    """Standard deviation over the classes, of which there is no further sample: divided by K."""
    present = _present(accuracy)
    return float(present.std(correction=0)) if len(present) else math.nan


def accuracy_disparity(accuracy: Tensor) -> float:
    """Best minus worst class accuracy."""
    present = _present(accuracy)
    return float(present.max() - present.min()) if len(present) else math.nan


def _present(accuracy: Tensor) -> Tensor:
    return accuracy[~accuracy.isnan()]
