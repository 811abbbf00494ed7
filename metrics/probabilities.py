"""What every calibration metric reads of a batch: probabilities, and their distance from the one-hot label."""

from dataclasses import dataclass
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import RectifyError


@dataclass(frozen=True)
class Forecast:
    """A batch of soft-max forecasts; each part is computed on first use and shared by all sums.

    Attributes:
        logits: (n, K) float32 or float64.
        label: (n,) int64.
    """

    logits: Tensor
    label: Tensor

    @classmethod
    def of(cls, logits: Tensor, label: Tensor) -> "Forecast":
        """Check logits (n, K) and labels (n,); half precision is raised to float32 before any soft-max.

        Raises:
            RectifyError: the shapes or types do not fit. Values are not looked at: that would wait for the device.
        """
        check_forecast(logits, label)
        logits = logits.detach()
        return cls(logits.to(torch.promote_types(logits.dtype, torch.float32)), label.long())

    @cached_property
    def probability(self) -> Tensor:
        """(n, K)."""
        return self.logits.softmax(1)

    @cached_property
    def prediction(self) -> Tensor:
        """(n,) int64 place of the first of the largest logits."""
        if self.logits.device.type == "cpu":  # NumPy's argmax runs in vector registers, torch's element by element
            return torch.from_numpy(self.logits.numpy().argmax(1))
        return self.logits.argmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        """(n,) the largest probability; one fused pass, without the table of all probabilities."""
        return F.cross_entropy(self.logits, self.prediction, reduction="none").neg_().exp_()

    @cached_property
    def hit(self) -> Tensor:
        """(n,) bool, whether the label is predicted."""
        return self.prediction.eq(self.label)

    @cached_property
    def residual(self) -> Tensor:
        """(n, K) probability minus one-hot label."""
        minus_one = self.probability.new_full((1, 1), -1).expand(len(self.label), 1)
        return self.probability.scatter_add(1, self.label[:, None], minus_one)

    def negative_log_likelihood(self) -> Tensor:
        """(n,) -log p of the label, in nats."""
        # -100 is no label here, as the default would have it, and not free of loss
        return F.cross_entropy(self.logits, self.label, reduction="none", ignore_index=-(2**31))

    def brier(self) -> Tensor:
        """(n,) squared distance of the probabilities from the one-hot label, in [0, 2]."""
        return self.residual.square().sum(1)


def check_forecast(logits: Tensor, label: Tensor) -> None:
    """Raise RectifyError unless logits are float (n, K), K at least 2, and labels integers (n,)."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise RectifyError(
            f"A calibration metric takes float logits (n, K), got {logits.dtype} of shape {tuple(logits.shape)}."
        )
    if logits.shape[1] < 2:
        raise RectifyError("A calibration metric needs at least 2 classes, got logits (n, 1); give both columns.")
    if label.shape != logits.shape[:1] or label.is_floating_point() or label.dtype == torch.bool:
        raise RectifyError(
            f"A calibration metric takes integer labels of shape ({len(logits)},), "
            f"got {label.dtype} of shape {tuple(label.shape)}."
        )


def check_labels(label: Tensor, classes: int) -> None:
    """Raise RectifyError if a label (n,) on the CPU is outside the classes; elsewhere a look waits for the device."""
    if label.device.type == "cpu" and len(label):
        low, high = (int(end) for end in label.aminmax())
        if low < 0 or high >= classes:
            raise RectifyError(f"A calibration metric: labels reach from {low} to {high}, but K is {classes} classes.")


def are_probabilities(values: Tensor) -> Tensor:
    """Return whether every row (n, K) lies in [0, 1] and sums to 1 as far as half precision goes, a scalar bool."""
    inside = (values >= 0).all() & (values <= 1).all()
    return inside & ((values.sum(1) - 1).abs() < 1e-2).all()


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
    return torch.bucketize(probability, _inner_edges(bins, probability.dtype, probability.device), right=True)


@cache
def _inner_edges(bins: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.linspace(0, 1, bins + 1, dtype=dtype, device=device)[1:-1].contiguous()
