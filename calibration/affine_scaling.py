"""Linear maps of the logits or of the log-probabilities: vector, matrix and Dirichlet scaling."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import RectifyError
from ._minimise import minimise
from .calibration_map import CalibrationMap


class VectorScaling(CalibrationMap):
    """softmax(w ∘ z + b), one weight and one bias a class, by maximum likelihood (Guo et al. 2017)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int):
        super().__init__(classes)
        self._declare(weight=(classes,), bias=(classes,))

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        weight, bias = logits.new_ones(self.classes), logits.new_zeros(self.classes)
        minimise([weight, bias], lambda: F.cross_entropy(logits * weight + bias, label))
        self._keep(weight=weight, bias=bias - bias.mean())

    def _map(self, logits: Tensor) -> Tensor:
        return logits * self.weight.to(logits.dtype) + self.bias.to(logits.dtype)


class MatrixScaling(CalibrationMap):
    """softmax(W z + b) with off-diagonal and intercept regularisation (ODIR, Kull et al. 2019, eq. 8).

    The penalty is λ·mean of squared off-diagonal weights + μ·mean of squared biases.

    Args:
        classes: K.
        off_diagonal: λ.
        intercept: μ.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int, off_diagonal: float = 0.1, intercept: float = 0.1):
        super().__init__(classes)
        for name, value in (("off_diagonal", off_diagonal), ("intercept", intercept)):
            if not 0 <= value < float("inf"):
                raise RectifyError(f"{type(self).__name__}: {name} is {value}; give 0 or more.")
        self.off_diagonal, self.intercept = off_diagonal, intercept
        self._declare(weight=(classes, classes), bias=(classes,))

    def objective(self, weight: Tensor, bias: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy plus the penalty, of weights (K, K) and bias (K,)."""
        off = weight * (1 - torch.eye(self.classes, dtype=weight.dtype, device=weight.device))
        penalty = self.off_diagonal * off.square().sum() / (self.classes * (self.classes - 1))
        penalty = penalty + self.intercept * bias.square().mean()
        return F.cross_entropy(self._input(logits) @ weight.T + bias, label) + penalty

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        weight = torch.eye(self.classes, dtype=logits.dtype, device=logits.device)
        bias = logits.new_zeros(self.classes)
        minimise([weight, bias], lambda: self.objective(weight, bias, logits, label))
        self._keep(weight=weight, bias=bias)

    def _map(self, logits: Tensor) -> Tensor:
        return self._input(logits) @ self.weight.to(logits.dtype).T + self.bias.to(logits.dtype)

    def _input(self, logits: Tensor) -> Tensor:
        return logits


class DirichletCalibration(MatrixScaling):
    """Matrix scaling of the log-probabilities: softmax(W log p + b) (Kull et al. 2019).

    Args:
        classes, off_diagonal, intercept: as in `MatrixScaling`.
    """

    def _input(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(1)
