"""Mixup (Zhang et al. 2018, arXiv 1710.09412) with λ per sample and, if wanted, another λ for the label."""

import torch
from torch import Tensor

from ..base_losses import BaseLoss
from ._draws import Per, beta, check_alpha, check_per, pair_partners
from .label_rules import LabelRule, check_label_rule, label_lambda
from .mixing import Mixing
from .plan import MixedTarget, MixPlan


def _draw(image: Tensor, alpha: float, per: Per, label: LabelRule, generator: torch.Generator | None) -> MixPlan:
    n, device = len(image), image.device
    lam = beta(alpha, alpha, n, per, generator, device)
    partners = pair_partners(n, generator, device)
    weights = torch.stack([lam, 1 - lam], 1)
    if label == "same":
        return MixPlan(partners, weights, weights)
    label_lam = label_lambda(label, lam, alpha, per, generator)
    return MixPlan(partners, torch.stack([label_lam, 1 - label_lam], 1), weights)


@torch.no_grad()
def mixup(
    image: Tensor,
    label: Tensor,
    alpha: float = 1.0,
    per: Per = "sample",
    label_rule: LabelRule = "same",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, MixedTarget]:
    """Mix a batch (B, ...) with labels (B,); `target.loss(model(mixed))` is the loss.

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        per: one λ for each `sample`, or one for the `batch`.
        label_rule: how the label weight follows from λ, see `label_lambda`.
        generator: on the images' device; torch's global one by default.

    Raises:
        RectifyError: alpha is not above 0, or per or label_rule is unknown.
    """
    check_alpha("mixup", alpha)
    plan = _draw(image, alpha, check_per("mixup", per), check_label_rule("mixup", label_rule), generator)
    return plan.apply(image), plan.target(label)


class Mixup(Mixing):
    """x̃ = λ·x_i + (1-λ)·x_j, loss λ_y·ℓ(y_i) + (1-λ_y)·ℓ(y_j), λ ~ Beta(α, α), j a random permutation.

    Args:
        alpha: α > 0; 1 is common on small images, 0.2 on ImageNet.
        per: one λ for each `sample`, or one for the `batch`.
        label: `same` (λ_y = λ), `independent` (its own draw), a number (label weight of the heavier image) or a
            function of λ; always on the same side of ½ as λ.
        stop, base: see Mixing.

    Raises:
        RectifyError: alpha is not above 0, per is unknown, or label is none of these.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        per: Per = "sample",
        label: LabelRule | str = "same",
        stop: float | None = None,
        base: BaseLoss | None = None,
    ):
        super().__init__(stop, base)
        self.alpha = check_alpha("Mixup", alpha)
        self.per = check_per("Mixup", per)
        self.label = check_label_rule(type(self).__name__, label)

    def draw(self, image: Tensor, generator: torch.Generator | None) -> MixPlan:
        return _draw(image, self.alpha, self.per, self.label, generator)
