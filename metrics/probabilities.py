"""What every calibration metric reads of a batch: probabilities, and their distance from the one-hot label."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RectifyError


@dataclass(frozen=True)
class Forecast:
    """A batch of soft-max forecasts, computed once and shared by all sums.

    Attributes:
        label: (n,) int64.
        log_probability: (n, K) log soft-max, float32 or float64.
        probability: (n, K).
        residual: (n, K) probability minus one-hot label.
    """

    label: Tensor
    log_probability: Tensor
    probability: Tensor
    residual: Tensor

    @classmethod
    def of(cls, logits: Tensor, label: Tensor) -> "Forecast":
        """Build the forecast of logits (n, K) and labels (n,); half precision is raised to float32 before the soft-max.

        Raises:
            RectifyError: the shapes or types do not fit. Values are not looked at: that would wait for the device.
        """
        if logits.ndim != 2 or not logits.is_floating_point():
            raise RectifyError(
                f"A calibration metric takes float logits (n, K), got {logits.dtype} of shape {tuple(logits.shape)}."
            )
        if label.shape != logits.shape[:1] or label.is_floating_point() or label.dtype == torch.bool:
            raise RectifyError(
                f"A calibration metric takes integer labels of shape ({len(logits)},), "
                f"got {label.dtype} of shape {tuple(label.shape)}."
            )
        logits, label = logits.detach(), label.long()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probability = logits.log_softmax(1)
        probability = log_probability.exp()
        minus_one = probability.new_full((1, 1), -1).expand(len(label), 1)
        return cls(label, log_probability, probability, probability.scatter_add(1, label[:, None], minus_one))

    def negative_log_likelihood(self) -> Tensor:
        """(n,) -log p of the label, in nats."""
        return -self.log_probability.gather(1, self.label[:, None]).squeeze(1)

    def brier(self) -> Tensor:
        """(n,) squared distance of the probabilities from the one-hot label, in [0, 2]."""
        return self.residual.square().sum(1)


def check_bins(bins: int) -> int:
    """Return `bins`, or raise RectifyError below 2."""
    if bins < 2:
        raise RectifyError(f"bins is {bins}; a calibration metric needs at least 2.")
    return bins


def bin_of(probability: Tensor, bins: int) -> Tensor:
    """Return the equal-width bin of each probability, int64 in 0 … bins-1.

    Bins are [i/B, (i+1)/B); the last one is closed, [1 - 1/B, 1]. Only inner edges are searched, so a probability of
    exactly 1, which float32 soft-max reaches often, has no bin of its own.
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=probability.dtype, device=probability.device)
    return torch.bucketize(probability, edges[1:-1], right=True)
