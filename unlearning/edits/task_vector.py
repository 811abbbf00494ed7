"""Task-vector negation (Ilharco et al. 2023, arXiv 2212.04089): go back along what fine-tuning on the data adds."""

import torch
from torch import nn

from ...collectives import sum_over_ranks
from ...errors import RectifyError
from ._gradients import Weights, batch_gradient, check_found, looked_at, samples, summed
from .edit import Batches, Edit


class TaskVector(Edit):
    """θ ← θ - scale · (θ_tuned - θ), θ_tuned after a few epochs of plain SGD on the samples to forget.

    The fine-tuning is in evaluation mode, on a copy; a step follows the mean gradient of a batch over all ranks. What
    is retained is not looked at.

    Args:
        scale: how far back; 0 changes nothing.
        lr: learning rate of the fine-tuning.
        epochs: passes over the samples to forget.

    Raises:
        RectifyError: a value out of range.
    """

    def __init__(self, scale: float = 1.0, lr: float = 0.01, epochs: int = 1):
        if not scale >= 0:
            raise RectifyError(f"TaskVector: scale is {scale}; it must be 0 or more.")
        if not lr > 0:
            raise RectifyError(f"TaskVector: lr is {lr}; it must be above 0.")
        if epochs < 1:
            raise RectifyError(f"TaskVector: epochs is {epochs}; give at least 1.")
        self.scale, self.lr, self.epochs = scale, lr, epochs

    def apply(self, backbone: nn.Module, forget: Batches, retain: Batches) -> None:
        with looked_at(backbone, "TaskVector") as weights:
            tuned = {name: weight.clone() for name, weight in weights.items()}
            steps = sum(self._pass(backbone, tuned, forget) for _ in range(self.epochs))
        check_found("TaskVector", steps, 1)
        for name, weight in weights.items():
            weight.sub_(tuned[name] - weight, alpha=self.scale)

    def _pass(self, backbone: nn.Module, tuned: Weights, forget: Batches) -> int:
        """Train one epoch in place; return its steps."""
        device, steps = next(iter(tuned.values())).device, 0
        for image, label in samples(forget, device):
            count = sum_over_ranks(torch.tensor(len(label), device=device))
            if not count:
                continue
            # an empty part of a batch has a gradient of 0, and the collectives need every rank
            own = (
                batch_gradient(backbone, tuned, image, label)
                if len(label)
                else {name: torch.zeros_like(weight) for name, weight in tuned.items()}
            )
            for name, gradient in summed(own).items():
                tuned[name].sub_(gradient / count, alpha=self.lr)
            steps += 1
        return steps
