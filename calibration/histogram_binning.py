"""Histogram binning: the frequency of each class in bins of its probability."""

import torch
from torch import Tensor

from ..metrics.probabilities import check_bins
from .calibration_map import CalibrationMap, floored_log


class HistogramBinning(CalibrationMap):
    """Frequencies in bins of equally many samples, per class, then scaled to sum 1 (Zadrozny and Elkan 2001).

    An edge lies half way between the samples on its sides. No probability falls below 1/(2nK) of
    the n samples.

    Args:
        classes: K.
        bins: of each class.
    """

    edges: Tensor
    frequency: Tensor
    floor: Tensor

    def __init__(self, classes: int, bins: int = 15):
        super().__init__(classes)
        self.bins = check_bins(bins)
        self._declare(edges=(classes, bins - 1), frequency=(classes, bins), floor=())

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        # counted with the float32 probabilities and edges that are met later: ties at 1 must fall into the same bin
        probability = logits.float().softmax(1).T.double().contiguous()
        ranked = probability.sort(1).values
        cut = (torch.arange(1, self.bins, device=label.device) * len(label)).div(self.bins, rounding_mode="floor")
        cut = cut.clamp(1, max(len(label) - 1, 1))
        edges = (ranked[:, cut - 1] + ranked[:, cut.clamp_max(len(label) - 1)]) / 2
        edges = edges.float().double()
        where = torch.searchsorted(edges, probability, right=True)
        outcome = label.eq(torch.arange(self.classes, device=label.device)[:, None]).to(logits.dtype)
        hits, count = (logits.new_zeros(self.classes, self.bins) for _ in range(2))
        hits.scatter_add_(1, where, outcome)
        count.scatter_add_(1, where, torch.ones_like(outcome))
        base = outcome.mean(1, keepdim=True)
        frequency = torch.where(count > 0, hits / count.clamp_min(1), base)
        self._keep(edges=edges, frequency=frequency, floor=logits.new_tensor(1 / (2 * len(label))))

    def frequencies(self, probability: Tensor) -> Tensor:
        """Return the frequency (n, K) of the bin of each class's probability, before floor and scaling."""
        edges = self.edges.to(probability.dtype).contiguous()
        where = torch.searchsorted(edges, probability.T.contiguous(), right=True)
        return self.frequency.to(probability.dtype).gather(1, where).T

    def _map(self, logits: Tensor) -> Tensor:
        return floored_log(self.frequencies(logits.float().softmax(1)).to(logits.dtype), self.floor)
