"""Base losses: functions of (logits, target) that return one loss per sample, so that any objective composes them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RectifyError


class BaseLoss(nn.Module):
    """Per-sample loss: `(logits (B, K), target (B,) int64) -> (B,)`."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class CrossEntropy(BaseLoss):
    """Softmax cross-entropy.

    Args:
        smoothing: share of the label mass spread evenly over all classes, in [0, 1).
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise RectifyError(f"CrossEntropy: smoothing is {smoothing}; it must lie in [0, 1).")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self.smoothing)


class BinaryCrossEntropy(BaseLoss):
    """One-versus-rest sigmoid cross-entropy, summed over the classes.

    Args:
        smoothing: s in [0, 1); the targets are 1 - s + s/K and s/K instead of 1 and 0, as in CrossEntropy.
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise RectifyError(f"BinaryCrossEntropy: smoothing is {smoothing}; it must lie in [0, 1).")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        # -log(1 - σ(z)) = softplus(z) for every class, and -t·z for a target t: no (B, K) one-hot is built
        off = self.smoothing / logits.shape[1]
        hit = logits.gather(1, target[:, None]).squeeze(1)
        loss = F.softplus(logits).sum(1) - (1 - self.smoothing) * hit
        return loss - off * logits.sum(1) if off else loss


class Focal(BaseLoss):
    """Focal loss (1 - p)^γ · CE (Lin et al. 2017, eq. 4), softmax form.

    Args:
        gamma: γ ≥ 0; 0 is cross-entropy.
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        if gamma < 0:
            raise RectifyError(f"Focal: gamma is {gamma}; it must be 0 or more.")
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, target, reduction="none")
        # 1 - p computed as -expm1(-ce), exact near p = 1; clamped, since the gradient of 0^γ is infinite for γ < 1
        miss = -torch.expm1(-cross_entropy)
        return miss.clamp_min(torch.finfo(logits.dtype).tiny) ** self.gamma * cross_entropy
