"""AMUN (Ebrahimpour-Boroojeny et al., ICML 2025): fine-tune on the nearest adversarial examples as they are seen."""

import torch
from torch import Tensor, nn

from ...attacks import PGD
from ...attacks.evidence import Budget
from ...errors import RectifyError
from ...ratio import Number, Ratio
from ..objective import Context
from .frozen_copy import FrozenCopy
from .nearest_class import wrong_class
from .parts import Portion
from .unlearning_objective import UnlearningObjective

EPS = Ratio("4/255")


class Amun(UnlearningObjective):
    """Each sample to forget is replaced by an adversarial example near it, labelled as the original network sees that.

    The radius is doubled until the original network is deceived, for each sample on its own; one that withstands the
    largest radius keeps its last example and the wrong class favoured there. What is retained is trained on its labels,
    and a mixed batch has one mean over its samples.

    Args:
        eps: smallest radius, in pixels in [0, 1] (L∞).
        doublings: how often it is doubled; eps · 2^doublings may not exceed 1.
        steps: steps of projected gradient ascent at each radius, of eps/4.

    Raises:
        RectifyError: a radius or number out of range.
    """

    pooled = True
    frozen_copies = 1

    def __init__(self, eps: Number = EPS, doublings: int = 3, steps: int = 4):
        super().__init__()
        if doublings < 0 or not float(eps) * 2**doublings <= 1:
            raise RectifyError(
                f"Amun: doublings is {doublings} from eps {float(eps):g}; the last radius may not exceed 1."
            )
        self.eps, self.doublings = float(eps), doublings
        self.attack = PGD(eps, Ratio(float(eps) / 4), steps, start="none")
        self.passes = 1 + (doublings + 1) * (steps + 1 / 3)

    def setup(self, backbone: nn.Module) -> None:
        self.original = FrozenCopy(backbone)
        self._label: Tensor | None = None

    def images(self, backbone: nn.Module, portion: Portion, context: Context) -> Tensor:
        image = portion.batch["image"]
        if not portion.forgets:
            return image
        near, self._label = self.nearest(image, portion.batch["label"])
        return torch.where(portion.forget.view(-1, 1, 1, 1), near, image)

    def nearest(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return adversarial images (B, C, H, W) of the smallest radius that deceives, and their labels (B,)."""
        kept, seen = image, self.original.answer(image)
        for doubling in range(self.doublings + 1):
            eps = torch.full((len(image),), self.eps * 2**doubling, dtype=image.dtype, device=image.device)
            x = self.attack(self.original, image, label, budget=Budget(eps, eps / 4)).image
            open_ = seen.argmax(1) == label if doubling else torch.ones_like(label, dtype=torch.bool)
            kept = torch.where(open_.view(-1, 1, 1, 1), x, kept)
            seen = torch.where(open_[:, None], self.original.answer(x), seen)
        return kept, wrong_class(seen, label)

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        assert self._label is not None
        return nn.functional.cross_entropy(logits, self._label, reduction="none")
