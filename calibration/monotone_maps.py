"""Maps of logits that never change the order of the classes within a sample."""

import torch
import torch.nn.functional as F
from torch import Tensor


class TemperatureMixture:
    """Σ_k |w_k| softmax(|τ_k| z) with weights that sum to 1: every part keeps the order, so the mixture does.

    Args:
        parts: number of temperatures.
        inverse: of the temperature to start around.
    """

    def __init__(self, parts: int, inverse: Tensor):
        around = torch.linspace(-0.7, 0.7, parts, dtype=inverse.dtype, device=inverse.device)
        self.parameters = [inverse * around.exp(), torch.full_like(around, 1 / parts)]

    @staticmethod
    def apply(logits: Tensor, tau: Tensor, weight: Tensor) -> Tensor:
        """Return log-probabilities (n, K)."""
        share = weight.abs() / weight.abs().sum()
        parts = (tau.abs()[:, None, None] * logits).log_softmax(2)
        return (parts + share.clamp_min(1e-30).log()[:, None, None]).logsumexp(0)


class PiecewiseLinear:
    """A rising piecewise linear function of the log-probability, the same for all classes, then scaled to sum 1.

    Args:
        segments: equal parts of [-depth, 0]; the last one goes on below.
        inverse: slope of all segments at the start.
    """

    DEPTH = 20.0

    def __init__(self, segments: int, inverse: Tensor):
        start = inverse.expm1().clamp_min(1e-6).log()  # soft-plus gives the slope back
        self.parameters = [start.repeat(segments)]

    @classmethod
    def apply(cls, logits: Tensor, raw: Tensor) -> Tensor:
        """Return log-probabilities (n, K)."""
        slope = F.softplus(raw) + 1e-3
        width = cls.DEPTH / len(slope)
        depth = -logits.log_softmax(1)
        segment = (depth.detach() / width).long().clamp_max(len(slope) - 1)
        before = torch.cat((slope.new_zeros(1), slope.cumsum(0)[:-1])) * width
        return (-(before[segment] + slope[segment] * (depth - segment * width))).log_softmax(1)
