"""Logits and labels of a split, checked once before anything is fitted on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RectifyError
from ..metrics.probabilities import are_probabilities


@dataclass(frozen=True)
class CachedLogits:
    """Logits (n, K) float64 and labels (n,) int64 of one split, finite and of the same length."""

    logits: Tensor
    label: Tensor

    @classmethod
    def of(cls, logits: Tensor, label: Tensor, owner: str) -> "CachedLogits":
        """Check and copy; the copy is no inference tensor, so gradients may be taken through it.

        Raises:
            RectifyError: wrong shapes, an empty split, fewer than two classes, NaN or infinite values, a label outside
                the classes, or probabilities in the place of logits.
        """
        if logits.ndim != 2 or not logits.is_floating_point():
            raise RectifyError(f"{owner}: give float logits (n, K), not {logits.dtype} of {tuple(logits.shape)}.")
        if logits.shape[1] < 2:
            raise RectifyError(f"{owner}: the logits have one class; calibration needs at least 2.")
        if label.shape != logits.shape[:1] or label.is_floating_point() or label.dtype == torch.bool:
            raise RectifyError(
                f"{owner}: give integer labels ({len(logits)},), not {label.dtype} {tuple(label.shape)}."
            )
        if not len(label):
            raise RectifyError(f"{owner}: the split is empty; give a validation split with samples.")
        logits, label = logits.detach().double().clone(), label.detach().long().clone()
        if not logits.isfinite().all():
            raise RectifyError(f"{owner}: some logits are NaN or infinite; the network has diverged.")
        if label.min() < 0 or label.max() >= logits.shape[1]:
            raise RectifyError(f"{owner}: labels reach from {label.min()} to {label.max()}, classes {logits.shape[1]}.")
        if are_probabilities(logits):
            raise RectifyError(f"{owner}: these are probabilities; give the logits, or their logarithm.")
        return cls(logits, label)


def check_disjoint(fitted: Tensor, tested: Tensor) -> None:
    """Raise RectifyError if a sample, named by its index, is both fitted and tested on.

    Args:
        fitted: (n,) indices of the calibration split.
        tested: (m,) indices of the test split.
    """
    shared = torch.isin(fitted, tested).sum().item()
    if shared:
        raise RectifyError(
            f"{shared} of {len(fitted)} calibration samples are test samples too; fit on the validation split."
        )
