"""One temperature for all logits."""

import torch
from torch import Tensor

from .calibration_map import CalibrationMap

RANGE = (1e-3, 1e3)


def best_inverse_temperature(logits: Tensor, label: Tensor) -> Tensor:
    """Return the β > 0 that minimises the NLL of β·logits, from 1/1000 to 1000.

    The NLL is convex in β; its derivative, mean expected logit minus mean label logit, is bisected.
    """
    own = logits.gather(1, label[:, None]).mean()
    low, high = (logits.new_tensor(end).log() for end in RANGE)
    for _ in range(50):
        middle = (low + high) / 2
        expected = ((middle.exp() * logits).softmax(1) * logits).sum(1).mean()
        rising = expected > own
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
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
