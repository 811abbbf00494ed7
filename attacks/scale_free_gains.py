"""What an attack maximises, free of the scale of the logits: large logits do not make the gradient vanish."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import RectifyError
from .gains import Gain, SoftTarget, margin

TINY = 1e-12


class DifferenceOfLogitsRatio(Gain):
    """DLR: (largest wrong logit - right logit) / (z₁ - z₃), z sorted downwards (Croce and Hein 2020, eq. 6).

    Raises:
        RectifyError: there are fewer than 3 classes.
    """

    needs_label = True

    def forward(self, logits: Tensor, target: Tensor, clean: Tensor | None) -> Tensor:
        _check_classes(type(self).__name__, logits, 3)
        largest = logits.topk(3, dim=1).values
        return margin(logits, target) / (largest[:, 0] - largest[:, 2] + TINY)


class TargetedDifferenceOfLogitsRatio(Gain):
    """(z_t - z_y) / (z₁ - (z₃ + z₄)/2), t the wrong class that is `place`-th on the clean image (eq. 7).

    Args:
        place: 1 is the most probable wrong class.

    Raises:
        RectifyError: there are fewer than 4 classes.
    """

    needs_clean = True
    needs_label = True

    def __init__(self, place: int = 1):
        super().__init__()
        self.place = place

    def forward(self, logits: Tensor, target: Tensor, clean: Tensor | None) -> Tensor:
        assert clean is not None
        _check_classes(type(self).__name__, logits, 4)
        wrong = clean.scatter(1, target[:, None], float("-inf"))
        towards = wrong.topk(self.place, dim=1).indices[:, -1:]
        largest = logits.topk(4, dim=1).values
        difference = (logits.gather(1, towards) - logits.gather(1, target[:, None])).squeeze(1)
        return difference / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + TINY)


class UnitScaleCrossEntropy(Gain):
    """Cross-entropy of the logits divided by their standard deviation over the classes, which counts as a constant.

    A network that hides its gradient behind large logits gives it away here. Nothing published; it serves the check of
    the loss's scale in `RobustnessReport`.
    """

    def forward(self, logits: Tensor, target: Tensor | SoftTarget, clean: Tensor | None) -> Tensor:
        logits = logits / logits.detach().std(1, keepdim=True).clamp_min(TINY)
        if isinstance(target, Tensor):
            return F.cross_entropy(logits, target, reduction="none")
        return target.per_sample(logits)


def _check_classes(name: str, logits: Tensor, least: int) -> Any:
    if logits.shape[1] < least:
        raise RectifyError(
            f"{name} compares {least} logits and the network has {logits.shape[1]} classes; "
            "choose the loss ce, or CarliniWagnerMargin."
        )
