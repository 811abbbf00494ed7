"""Bad teacher (Chundawat et al. 2023, arXiv 2205.08096): forget towards a network that knows nothing."""

import copy

import torch
from torch import Tensor, nn

from ...errors import RectifyError
from ...randomness import fold, global_seed
from ..objective import Context
from .frozen_copy import FrozenCopy, divergence
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class BadTeacher(UnlearningObjective):
    """KL to a randomly initialised teacher on what is forgotten, KL to the original on what is retained.

    Labels are not read. A mixed batch, as published, has one mean over its samples.

    Args:
        temperature: T > 0 of both divergences.

    Raises:
        RectifyError: a temperature of 0 or less.
    """

    schedules = ("mixed", "paired", "forget_then_retain")
    pooled = True
    frozen_copies = 2
    passes = 5 / 3

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if not temperature > 0:
            raise RectifyError(f"BadTeacher: temperature is {temperature}; it must be above 0.")
        self.temperature = temperature

    def setup(self, backbone: nn.Module) -> None:
        self.original = FrozenCopy(backbone)
        self.ignorant = FrozenCopy(reinitialized(backbone, fold(global_seed(), "bad teacher")))

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        return divergence(logits, self.ignorant.answer(portion.batch["image"]), self.temperature)

    def retain_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        return divergence(logits, self.original.answer(portion.batch["image"]), self.temperature)


def reinitialized(backbone: nn.Module, seed: int) -> nn.Module:
    """Return a copy whose layers are drawn anew by their own `reset_parameters`; the global random state is fenced.

    Weights that belong to no such layer (class tokens, position embeddings) are drawn from N(0, 0.02²).
    """
    fresh = copy.deepcopy(backbone)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            else:
                for weight in module.parameters(recurse=False):
                    weight.normal_(0, 0.02)
    return fresh
