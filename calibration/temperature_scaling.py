"""One temperature for all logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from .calibration_map import CalibrationMap

RANGE = (1e-3, 1e3)


def best_inverse_temperature(logits: Tensor, label: Tensor) -> Tensor:
    """Return the β > 0 that minimises the NLL of β·logits, from 1/1000 to 1000.

    The NLL is convex in β; its derivative, mean expected logit minus mean label logit, is bisected. Where all samples
    are predicted right it has no minimum, and one error later would cost without limit: β is then that of a mean
    confidence of (n + 1)/(n + 2), Laplace's estimate of the accuracy.
    """
    own = logits.gather(1, label[:, None]).mean()
    found = _least_above(logits, lambda scaled: (scaled.softmax(1) * logits).sum(1).mean(), own)
    if found < 0.999 * RANGE[1]:
        return found
    hits = logits.argmax(1).eq(label).to(logits.dtype).sum()
    return _least_above(logits, lambda scaled: scaled.softmax(1).amax(1).mean(), (hits + 1) / (len(label) + 2))


def _least_above(logits: Tensor, rising: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The least β in the range at which a figure of β·logits that rises with β exceeds `value`, by bisection."""
    low, high = (logits.new_tensor(end).log() for end in RANGE)
    for _ in range(50):
        middle = (low + high) / 2
        above = rising(middle.exp() * logits) > value
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).exp()


class TemperatureScaling(CalibrationMap):
    """softmax(z / T), T by maximum likelihood (Guo et al. 2017); above 1 the network was over-confident."""

    keeps_prediction = True
    inverse: Tensor

    def __init__(self, classes: int):
        super().__init__(classes)
        self._declare(inverse=())

    @property
    def temperature(self) -> float:
        return 1 / float(self.inverse)

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        with torch.no_grad():
            self._keep(inverse=best_inverse_temperature(logits, label))

    def _map(self, logits: Tensor) -> Tensor:
        return logits * self.inverse.to(logits.dtype)
