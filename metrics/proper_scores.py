"""Proper scores: they are smallest, in expectation, for the true probabilities."""

import torch
from torch import Tensor

from .forecast_metric import ForecastMetric
from .probabilities import Forecast


class _MeanScore(ForecastMetric):
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total")
        self.add_sum("samples", dtype=torch.int64)

    def score(self, forecast: Forecast) -> Tensor:
        """Return (n,) scores."""
        raise NotImplementedError

    def update(self, logits: Tensor, label: Tensor) -> None:
        self.total += self.score(self.forecast(logits, label)).sum(dtype=self.total.dtype)
        self.samples += len(label)

    def compute(self) -> Tensor:
        self.refuse_bad(self.total)
        return (self.total / self.samples).float()


class NegativeLogLikelihood(_MeanScore):
    """Mean -log p of the label in nats: `update(logits (n, K), label (n,))`."""

    def score(self, forecast: Forecast) -> Tensor:
        return forecast.negative_log_likelihood()


class BrierScore(_MeanScore):
    """Mean of Σ_k (p_k - y_k)², in [0, 2] (Brier 1950); some divide by K. `update(logits (n, K), label (n,))`."""

    def score(self, forecast: Forecast) -> Tensor:
        return forecast.brier()
