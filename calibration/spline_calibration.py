"""Recalibrated confidence as the slope of a spline through the cumulated hits."""

import torch
from torch import Tensor

from ..errors import RectifyError
from .calibration_map import CalibrationMap

QUANTILES = 1024


def natural_spline_basis(t: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and slopes (n, M) of the M natural cubic splines at t (n,): cubic between knots, linear outside."""
    last, before = knots[-1], knots[-2]

    def cubic(knot: Tensor) -> tuple[Tensor, Tensor]:
        one, two = (t - knot).clamp_min(0), (t - last).clamp_min(0)
        width = last - knot
        return (one**3 - two**3) / width, 3 * (one**2 - two**2) / width

    top, slope = cubic(before)
    columns = [(torch.ones_like(t), torch.zeros_like(t)), (t, torch.ones_like(t))]
    for knot in knots[:-2]:
        value, rise = cubic(knot)
        columns.append((value - top, rise - slope))
    return torch.stack([value for value, _ in columns], 1), torch.stack([rise for _, rise in columns], 1)


class SplineCalibration(CalibrationMap):
    """The top confidence becomes the accuracy at its quantile; the others share what is left (Gupta et al. 2021).

    With samples in rising confidence, h(t) is the share of hits among the first t·N samples, of all N. A natural cubic
    spline is fitted to h, and its slope at a quantile is the accuracy there. Other classes keep their proportions, and
    the confidence never falls to where the second class would overtake it.

    Args:
        classes: K.
        knots: of the spline.
    """

    keeps_prediction = True
    quantiles: Tensor
    slopes: Tensor

    def __init__(self, classes: int, knots: int = 6):
        super().__init__(classes)
        if knots < 3:
            raise RectifyError(f"SplineCalibration: knots is {knots}; a natural cubic spline needs at least 3.")
        self.knots = knots
        self._declare(quantiles=(QUANTILES,), slopes=(QUANTILES,))

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        with torch.no_grad():
            confidence, prediction = logits.softmax(1).max(1)
            order = confidence.argsort(stable=True)
            hits = prediction.eq(label).to(logits.dtype)[order].cumsum(0) / len(label)
            t = torch.arange(0, len(label) + 1, device=logits.device, dtype=logits.dtype) / len(label)
            knots = torch.linspace(0, 1, self.knots, dtype=logits.dtype, device=logits.device)
            value, _ = natural_spline_basis(t, knots)
            height = torch.cat((hits.new_zeros(1), hits))
            weights = torch.linalg.lstsq(value, height[:, None]).solution[:, 0]
            grid = torch.linspace(0, 1, QUANTILES, dtype=logits.dtype, device=logits.device)
            _, rise = natural_spline_basis(grid, knots)
            self._keep(quantiles=confidence.quantile(grid), slopes=rise @ weights)

    def accuracy(self, confidence: Tensor) -> Tensor:
        """Return the spline's accuracy (n,) at confidences (n,), as fitted, before any limit."""
        marks, slopes = self.quantiles.to(confidence.dtype), self.slopes.to(confidence.dtype)
        # a confidence held by many samples spans many marks: its place is their middle
        left, right = (torch.searchsorted(marks, confidence, right=side) for side in (False, True))
        first, last = (left - 1).clamp(0, len(marks) - 1), right.clamp(0, len(marks) - 1)
        share = (confidence - marks[first]) / (marks[last] - marks[first]).clamp_min(1e-30)
        between = slopes[first] + share.clamp(0, 1) * (slopes[last] - slopes[first])
        tied = slopes[((left + right - 1) / 2).long().clamp(0, len(marks) - 1)]
        return torch.where(right > left, tied, between)

    def _map(self, logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        top, place = log_p.max(1, keepdim=True)
        rest = log_p.scatter(1, place, -torch.inf)
        rest = rest - rest.logsumexp(1, keepdim=True)  # proportions of the other classes
        second = rest.amax(1).exp()
        least = second / (1 + second)  # where the second class would draw level
        wanted = self.accuracy(top.exp()[:, 0]).clamp(max=1 - 1e-4)
        confidence = torch.maximum(wanted, least + 1e-6)[:, None]
        return torch.scatter(rest + (1 - confidence).log(), 1, place, confidence.log())
