"""The class a sample would fall to."""

from torch import Tensor


def wrong_class(logits: Tensor, label: Tensor) -> Tensor:
    """Return the class of the largest logit (B, K) besides that of the label (B,), (B,) int64."""
    return logits.detach().scatter(1, label[:, None], float("-inf")).argmax(1)
