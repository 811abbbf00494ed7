"""A mixture of the scaled, the unscaled and the uniform forecast."""

import math

import torch
from torch import Tensor

from .calibration_map import CalibrationMap
from .temperature_scaling import best_inverse_temperature


class EnsembleTemperature(CalibrationMap):
    """w₁ softmax(z/T) + w₂ softmax(z) + w₃/K (ETS, Zhang, Kailkhura and Han 2020).

    T as in temperature scaling, then the weights by maximum likelihood: a mixture with known parts, where
    expectation-maximisation climbs to the one optimum.
    """

    keeps_prediction = True
    inverse: Tensor
    mixture: Tensor

    def __init__(self, classes: int):
        super().__init__(classes)
        self._declare(inverse=(), mixture=(3,))

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        with torch.no_grad():
            inverse = best_inverse_temperature(logits, label)
            own = torch.stack([part.gather(1, label[:, None])[:, 0] for part in self._parts(logits, inverse)]).exp()
            mixture = own.new_full((3,), 1 / 3)
            for _ in range(2000):
                joint = mixture[:, None] * own
                mixture = (joint / joint.sum(0).clamp_min(1e-300)).mean(1)
            self._keep(inverse=inverse, mixture=mixture)

    def _parts(self, logits: Tensor, inverse: Tensor) -> list[Tensor]:
        uniform = torch.full_like(logits, -math.log(self.classes))
        return [(logits * inverse).log_softmax(1), logits.log_softmax(1), uniform]

    def _map(self, logits: Tensor) -> Tensor:
        parts = torch.stack(self._parts(logits, self.inverse.to(logits.dtype)))
        return (parts + self.mixture.to(logits.dtype).log()[:, None, None]).logsumexp(0)
