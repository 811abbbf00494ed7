"""Fisher forgetting (Golatkar et al. 2020, arXiv 1911.04933): noise on the weights that what is retained can spare."""

import torch
from torch import nn

from ...backbones.last_linear import logit_layer
from ...errors import RectifyError
from ...randomness import global_seed, keyed_generator
from ._gradients import check_found, fisher_diagonal, looked_at
from .edit import Batches, Edit


class FisherNoise(Edit):
    """θ ← θ + N(0, σ²) with σ = min(√(α / F), largest), F the mean squared gradient of the retained samples.

    The noise of the last linear layer is multiplied by `head`. It is a function of the run's seed and a weight's name.

    Args:
        alpha: α ≥ 0; tuned around 1e-9 in reports on the published code.
        largest: bound of σ; published 1e-3.
        head: factor of the last linear layer; published 10.
        per_sample: square each sample's gradient, as published; otherwise that of each batch's mean loss.

    Raises:
        RectifyError: a value below 0.
    """

    def __init__(self, alpha: float = 1e-9, largest: float = 1e-3, head: float = 10.0, per_sample: bool = True):
        for name, value in (("alpha", alpha), ("largest", largest), ("head", head)):
            if not value >= 0:
                raise RectifyError(f"FisherNoise: {name} is {value}; it must be 0 or more.")
        self.alpha, self.largest, self.head, self.per_sample = alpha, largest, head, per_sample

    def apply(self, backbone: nn.Module, forget: Batches, retain: Batches) -> None:
        head = logit_layer(backbone)
        logits = next((name for name, module in backbone.named_modules() if module is head), None)
        with looked_at(backbone, "FisherNoise") as weights:
            fisher, count = fisher_diagonal(backbone, weights, retain, self.per_sample)
        check_found("FisherNoise", 1, count)
        for name, weight in weights.items():
            deviation = (self.alpha * count / fisher[name]).sqrt().nan_to_num(nan=0.0).clamp(max=self.largest)
            if name.rpartition(".")[0] == logits:
                deviation *= self.head
            # drawn on the CPU, so that any device has the same noise
            noise = torch.randn(weight.shape, generator=keyed_generator(global_seed(), "fisher noise", name))
            weight.add_(noise.to(weight) * deviation)
