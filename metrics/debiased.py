"""Calibration errors without the bias that few samples a bin give them (Kumar, Liang and Ma 2019)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RectifyError

if TYPE_CHECKING:
    from .reliability import Norm, Reliability


def debiased_error(data: Reliability, norm: Norm) -> Tensor:
    """Return the binned error less the part that the accuracies' sampling noise explains; NaN without samples.

    l2: the root of Σ n_b/N·[(acc_b - conf_b)² - acc_b(1 - acc_b)/(n_b - 1)] (their eq. 6), 0 where the sum is
    negative; bins with one sample have no variance and count nothing. l1: 2·ECE - E[ECE], the expectation over
    accuracies drawn from N(acc_b, acc_b(1 - acc_b)/n_b); they draw, here the folded normal's mean is in closed form.
    It may be below 0.

    Raises:
        RectifyError: the norm is `max`, for which no such estimate is known.
    """
    if norm == "max":
        raise RectifyError("norm is 'max', which has no debiased form; choose l1 or l2, or set debiased false.")
    count = data.count.clamp_min(1).to(data.confidence.dtype)
    accuracy, gap = data.hits / count, data.gap_sum / count
    variance = accuracy * (1 - accuracy)
    if norm == "l2":
        excess = (gap.square() - variance / (count - 1).clamp_min(1)) * (data.count > 1)
        total = (data.count * excess).sum(-1) / data.samples
        return torch.where(data.samples > 0, total.clamp_min(0).sqrt(), torch.nan)
    spread = (variance / count).sqrt()
    place = gap / spread.clamp_min(1e-300)
    normal = math.sqrt(2 / math.pi) * (-place.square() / 2).exp()
    folded = torch.where(spread > 0, spread * normal + gap * torch.erf(place / math.sqrt(2)), gap.abs())
    return (data.count * (2 * gap.abs() - folded)).sum(-1) / data.samples
