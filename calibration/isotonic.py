"""Isotonic regression of each class's frequency on its probability."""

import numpy as np
import torch
from torch import Tensor

from .calibration_map import CalibrationMap, floored_log

CORNERS = 1024


def pool_adjacent_violators(value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the non-decreasing sequence (n,) nearest to `value` in weighted squares, in O(n)."""
    level, mass, length = np.empty(len(value)), np.empty(len(value)), np.empty(len(value), dtype=np.int64)
    top = -1
    for own, heavy in zip(value.tolist(), weight.tolist(), strict=True):
        top += 1
        level[top], mass[top], length[top] = own, heavy, 1
        while top and level[top - 1] >= level[top]:
            total = mass[top - 1] + mass[top]
            level[top - 1] = (level[top - 1] * mass[top - 1] + level[top] * mass[top]) / total
            mass[top - 1], length[top - 1] = total, length[top - 1] + length[top]
            top -= 1
    return np.repeat(level[: top + 1], length[: top + 1])


def isotonic_knots(score: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (x, y) of the isotonic fit of outcomes in [0, 1] on scores; equal scores are one point."""
    x, place = np.unique(score, return_inverse=True)
    weight = np.bincount(place).astype(np.float64)
    y = pool_adjacent_violators(np.bincount(place, outcome) / weight, weight)
    corner = np.ones(len(x), dtype=bool)
    corner[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return x[corner], y[corner]


def interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Return piecewise linear values (K, n) at (K, n) between knots (K, M) in rising order, constant outside."""
    right = torch.searchsorted(x, at.contiguous()).clamp(1, x.shape[1] - 1)
    x0, x1, y0, y1 = x.gather(1, right - 1), x.gather(1, right), y.gather(1, right - 1), y.gather(1, right)
    share = ((at - x0) / (x1 - x0).clamp_min(1e-30)).clamp(0, 1)
    return y0 + share * (y1 - y0)


def _resized(corners: np.ndarray) -> np.ndarray:
    """(CORNERS,): the last one repeated, or as many as fit at equal steps."""
    if len(corners) > CORNERS:
        return corners[np.linspace(0, len(corners) - 1, CORNERS).round().astype(int)]
    return np.pad(corners, (0, CORNERS - len(corners)), "edge")


class IsotonicCalibration(CalibrationMap):
    """A non-decreasing function per class from p to frequency, then scaled to sum 1 (Zadrozny and Elkan 2002).

    Linear between the corners of the fit; a class with more than 1024 keeps that many, at equal steps. No probability
    falls below 1/(2nK) of the n samples fitted on.
    """

    x: Tensor
    y: Tensor
    floor: Tensor

    def __init__(self, classes: int):
        super().__init__(classes)
        self._declare(x=(classes, CORNERS), y=(classes, CORNERS), floor=())

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        probability = logits.softmax(1).float().double().detach().cpu().numpy()  # the knots are kept in float32
        outcome = label.cpu().numpy()
        knots = [isotonic_knots(probability[:, k], (outcome == k).astype(np.float64)) for k in range(self.classes)]
        pad = [[_resized(part) for part in pair] for pair in knots]
        x, y = (torch.from_numpy(np.stack(part)).to(logits) for part in zip(*pad, strict=True))
        self._keep(x=x, y=y, floor=logits.new_tensor(1 / (2 * len(label))))

    def frequencies(self, probability: Tensor) -> Tensor:
        """Return the fitted value (n, K) of each class's probability, before floor and scaling."""
        to = probability.dtype
        return interpolate(self.x.to(to), self.y.to(to), probability.T).T

    def _map(self, logits: Tensor) -> Tensor:
        return floored_log(self.frequencies(logits.softmax(1)), self.floor)
