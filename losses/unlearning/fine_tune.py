"""Fine-tuning on what is retained, in the hope that the rest is forgotten (Warnecke et al. 2023)."""

from typing import Any

from torch import nn

from ..objective import Context, Step
from .unlearning_objective import UnlearningObjective


class FineTune(UnlearningObjective):
    """Mean cross-entropy of the samples to retain; what is forgotten is not looked at.

    Its own schedule gives plain batches, in which every sample is retained.
    """

    schedules = ("retain", "forget_then_retain", "paired", "mixed")
    uses = ("retain",)

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        plain = "image" in batch and "forget" not in batch
        return super().forward(backbone, {"retain": batch} if plain else batch, context)
