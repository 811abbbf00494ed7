"""The network as it was before unlearning."""

import copy

import torch
from torch import Tensor, nn


class FrozenCopy(nn.Module):
    """A copy of a backbone that stays in evaluation mode and is never trained; it is saved with the checkpoint.

    Calling it gives logits through which an attack can differentiate; `answer` gives them without a graph.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(backbone).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenCopy":
        return super().train(False)  # batch-norm statistics of the original must not move

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    @torch.no_grad()
    def answer(self, image: Tensor) -> Tensor:
        """Return logits (B, K) without gradient."""
        return self.network(image)


def divergence(logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(reference || student) of (B, K) logits at a temperature T, times T² (Hinton et al. 2015), (B,)."""
    theirs = (reference / temperature).log_softmax(1)
    ours = (logits / temperature).log_softmax(1)
    return (theirs.exp() * (theirs - ours)).sum(1) * temperature**2
