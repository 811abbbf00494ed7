"""Boundary shrink (Chen et al. 2023, arXiv 2303.11570): hand the forgotten samples to the nearest other class."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...attacks import FGSM
from ...ratio import Number, Ratio
from ..objective import Context
from .frozen_copy import FrozenCopy
from .nearest_class import wrong_class
from .parts import Portion
from .unlearning_objective import UnlearningObjective

EPS = Ratio(0.1)  # published


class BoundaryShrink(UnlearningObjective):
    """Cross-entropy of the forgotten samples to the nearest wrong class; what is retained is not looked at.

    Nearest is the wrong class that the network before unlearning favours at one FGSM step from the image.

    Args:
        eps: length of the step, in pixels in [0, 1].
    """

    schedules = ("forget", "forget_then_retain", "paired", "mixed")
    uses = ("forget",)
    frozen_copies = 1
    passes = 7 / 3

    def __init__(self, eps: Number = EPS):
        super().__init__()
        self.attack = FGSM(eps)

    def setup(self, backbone: nn.Module) -> None:
        self.original = FrozenCopy(backbone)

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        image, label = portion.batch["image"], portion.batch["label"]
        beyond = self.attack(self.original, image, label).image
        return F.cross_entropy(logits, wrong_class(self.original.answer(beyond), label), reduction="none")
