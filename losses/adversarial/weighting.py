"""How much each sample counts: the contract of a weighting, and the one that weighs all alike."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...attacks import Evidence
from ...collectives import sum_over_ranks
from ...errors import RectifyError
from .surrogates import Target

Term = Literal["all", "robust"]


@dataclass(frozen=True)
class Seen:
    """What a weighting may look at; nothing here has a gradient.

    Attributes:
        loss: (B,) the surrogate, both terms together.
        adversarial: (B, K) logits the loss was computed from.
        clean: (B, K) logits of the images as they are, if anything asked for them.
        label: (B,), of a mixture the heavier label.
        target: the labels, or the target of a mixture.
        evidence: the attack's; None in clean training.
        progress: share of the training done.
    """

    loss: Tensor
    adversarial: Tensor
    clean: Tensor | None
    label: Tensor
    target: Target
    evidence: Evidence | None
    progress: float


class Weighting(nn.Module):
    """One weight per sample, (B,), without gradient; the loss is the mean over all ranks of weight · term.

    A subclass overrides `weigh`. Statistics over the batch are taken over all ranks.

    Args:
        start: share of the training after which it sets in; all weights are 1 before.
        term: the terms of the surrogate it weighs: `all`, or the `robust` one.
    """

    needs_clean: bool = False
    """Reads the logits of the images as they are."""
    needs_label: bool = False
    """Cannot take the target of a mixture."""
    least_steps: int = 0
    """Reads the attack's evidence, which must come from this many steps or more."""

    def __init__(self, start: float = 0.0, term: Term = "all"):
        super().__init__()
        name = type(self).__name__
        if not 0 <= start <= 1:
            raise RectifyError(f"{name}: start is {start}; give a fraction of the training in [0, 1].")
        if term not in ("all", "robust"):
            raise RectifyError(f"{name}: term is {term!r}; choose all or robust.")
        self.start, self.term = start, term

    def setup(self, backbone: nn.Module) -> None:
        """Check against the network, before training."""

    def forward(self, seen: Seen, update: bool = True) -> Tensor:
        """Return the weights; `update=False` leaves running statistics as they are."""
        with torch.no_grad():
            return self.weigh(seen, update) if seen.progress >= self.start else torch.ones_like(seen.loss)

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        raise NotImplementedError


class UniformWeights(Weighting):
    """All samples alike."""

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        return torch.ones_like(seen.loss)


def global_mean_one(weight: Tensor) -> Tensor:
    """Scale weights (B,) so that their mean over the batches of all ranks is 1."""
    total, count = sum_over_ranks(torch.stack([weight.sum(), torch.ones_like(weight).sum()]))
    return weight * (count / total.clamp_min(torch.finfo(weight.dtype).tiny))
