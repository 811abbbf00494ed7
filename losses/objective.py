"""The contract between an objective (what is minimised) and everything that trains with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..randomness import keyed_generator


@dataclass(frozen=True)
class Context:
    """Where training stands at this batch.

    Attributes:
        step: optimizer steps done.
        progress: share of the training done, in [0, 1].
        key: what random numbers hang on, (seed, rank, epoch, batch in the epoch): the same after a resume, different on
            every rank and for every micro-batch of an accumulated step.
    """

    step: int = 0
    progress: float = 0.0
    key: tuple[int, ...] = (0, 0, 0, 0)

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return this batch's generator for one named use (`"mixing"`, `"attack"`), independent of other names."""
        return keyed_generator(*self.key, stream, device=device)


@dataclass
class Step:
    """What an objective returns for a batch.

    Attributes:
        loss: scalar to minimise; DDP averages its gradient over ranks.
        logits: (B, K) outputs to count accuracy on, or None.
        target: (B,) labels they should hit; under mixing the label with the largest weight.
        terms: detached scalars to log, by flat name.
    """

    loss: Tensor
    logits: Tensor | None = None
    target: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """What is minimised. State that must survive a restart is a buffer; parameters of its own are trained.

    A subclass overrides `forward`, and `setup` or `after_step` if it needs them, and states below what it needs and
    does: the module, the data and the strategy guard read these declarations before training starts.
    """

    needs_index: bool = False
    """Reads `batch["index"]`."""
    needs_retain: bool = False
    """Its batch is `{"forget": batch | None, "retain": batch | None}`."""
    views: int = 1
    """Augmented views of each image it wants: `batch["image"]` is then (B, views, C, H, W)."""
    double_backward: bool = False
    """Differentiates through a gradient; impossible where parameters are sharded."""
    writes_weights: bool = False
    """Moves weights outside the optimizer, in place (SAM, a proximal step) or in a copy it computes with (AWP)."""
    passes: float = 1.0
    """Forward and backward passes of the backbone a step, for the cost estimate (PGD with 10 steps: 11)."""
    frozen_copies: int = 0
    """Copies of the backbone it holds (teachers, anchors), for the cost estimate."""
    own_parameters: bool = False
    """Has trainable parameters of its own (proxies, class centres)."""

    def setup(self, backbone: nn.Module) -> None:
        """Build teachers and anchors, check layer names. Called once, before the optimizer and the first batch."""

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        """Return the loss of a batch. `backbone` is the plain module, never a DDP wrapper."""
        raise NotImplementedError

    def after_step(self, backbone: nn.Module) -> None:
        """Called after each optimizer step."""


def tell_class_counts(objective: nn.Module, counts: Sequence[int] | None) -> None:
    """Give the training samples of each class to every part of an objective that has `take_class_counts`."""
    for part in objective.modules():
        take = getattr(part, "take_class_counts", None)
        if counts is not None and callable(take):
            take(counts)
