"""What an attack maximises: functions of logits that return one value per sample."""

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class SoftTarget(Protocol):
    """A target that is no plain label, such as that of a mixture."""

    def per_sample(self, logits: Tensor) -> Tensor:
        """Return the cross-entropy of each sample, (B,)."""


class Gain(nn.Module):
    """What an attack maximises: `(logits (B, K), target, clean logits or None) -> (B,)`.

    The target is (B,) int64 labels or a SoftTarget.
    """

    needs_clean: bool = False
    """Compares with the logits of the images as they are, which the attack then computes once."""
    needs_label: bool = False
    """Cannot take a SoftTarget."""

    def forward(self, logits: Tensor, target: Any, clean: Tensor | None) -> Tensor:
        raise NotImplementedError


class CrossEntropyGain(Gain):
    """Cross-entropy (Madry et al. 2018)."""

    def forward(self, logits: Tensor, target: Tensor | SoftTarget, clean: Tensor | None) -> Tensor:
        if isinstance(target, Tensor):
            return F.cross_entropy(logits, target, reduction="none")
        return target.per_sample(logits)


class DivergenceGain(Gain):
    """KL(clean || adversarial) (TRADES, Zhang et al. 2019); reads no label."""

    needs_clean = True

    def forward(self, logits: Tensor, target: Any, clean: Tensor | None) -> Tensor:
        assert clean is not None
        return F.kl_div(logits.log_softmax(1), clean.softmax(1), reduction="none").sum(1)


class CarliniWagnerMargin(Gain):
    """Largest wrong logit minus the right one (Carlini and Wagner 2017, f_6), capped above.

    Unlike cross-entropy its gradient does not vanish with the scale of the logits.

    Args:
        confidence: κ: a sample that is wrong by more than this is left alone.
    """

    needs_label = True

    def __init__(self, confidence: float = 50.0):
        super().__init__()
        self.confidence = confidence

    def forward(self, logits: Tensor, target: Tensor, clean: Tensor | None) -> Tensor:
        return margin(logits, target).clamp_max(self.confidence)


def margin(scores: Tensor, label: Tensor) -> Tensor:
    """Return the largest wrong score minus that of the label, (B,); above 0 where the prediction is wrong."""
    right = scores.gather(1, label[:, None])
    return scores.scatter(1, label[:, None], float("-inf")).amax(1) - right.squeeze(1)
