"""U-LiRA: per sample, is this model more like one that unlearned it or like one that never saw it?"""

import math

import torch
from torch import Tensor

from ..errors import RectifyError
from .attack_curve import AttackCurve


def lira_log_ratio(
    target: Tensor,
    inside: Tensor,
    outside: Tensor,
    inside_mask: Tensor | None = None,
    outside_mask: Tensor | None = None,
    shared_variance: bool = False,
) -> Tensor:
    """Return (T, n) log N(target; inside) - log N(target; outside), a normal distribution fitted per sample and side.

    Carlini et al. 2022 on the margins of `logit_margin`. For the audit of an unlearning method (U-LiRA, Hayes et al.
    2024; Kurmanji et al. 2023) `inside` are models that learned the sample and unlearned it, `outside` models that
    never saw it: retrained shadows, which do not depend on the method and serve all of them.

    Args:
        target: (T, n) or (n,) margins of the audited models.
        inside: (S, n) margins of shadow models of one side.
        outside: (R, n) margins of shadow models of the other side.
        inside_mask, outside_mask: (S, n), (R, n) bool, which margins count; all by default.
        shared_variance: one variance a side for all samples, for few shadows (below about 32).

    Raises:
        RectifyError: a sample has fewer than 2 shadows on a side.
    """
    target = torch.atleast_2d(target).double()
    sides = [
        _Normal.fit(margin, mask, name)
        for margin, mask, name in ((inside, inside_mask, "inside"), (outside, outside_mask, "outside"))
    ]
    first, second = (side.log_density(target, shared_variance) for side in sides)
    return first - second


def u_lira(
    unlearned: Tensor,
    retrained: Tensor,
    unlearned_mask: Tensor | None = None,
    retrained_mask: Tensor | None = None,
    shared_variance: bool = False,
) -> AttackCurve:
    """Audit a method: tell unlearned from retrained models, each judged by normals fitted to the others.

    An AUC of 0.5 means that unlearning cannot be told from retraining; `tpr_at(0.01)` is the usual second figure.

    Args:
        unlearned: (S, n) margins of shadow models after unlearning.
        retrained: (R, n) margins of shadow models that never saw the sample, shared by all methods.
        unlearned_mask: (S, n) bool, the sample was in that shadow's forget set; all by default.
        retrained_mask: (R, n) bool, the sample was not in that shadow's training set; all by default.

    Raises:
        RectifyError: a sample has fewer than 3 shadows on a side: one is judged by at least 2 others.
    """
    masks = [
        torch.ones_like(margin, dtype=torch.bool) if mask is None else mask
        for margin, mask in ((unlearned, unlearned_mask), (retrained, retrained_mask))
    ]
    for mask, name in zip(masks, ("unlearned", "retrained"), strict=True):
        if bool((mask.sum(0) < 3).any()):
            raise RectifyError(f"U-LiRA needs 3 or more {name} shadow models of each sample; train more of them.")
    ratios: list[Tensor] = []
    for side, (margin, mask) in enumerate(zip((unlearned, retrained), masks, strict=True)):
        found = []
        for i in range(len(margin)):
            others = [kept.clone() for kept in masks]
            others[side][i] = False
            ratio = lira_log_ratio(margin[i], unlearned, retrained, others[0], others[1], shared_variance)
            found.append(ratio[0][mask[i]])
        ratios.append(torch.cat(found))
    return AttackCurve.of(*ratios)


class _Normal:
    """Mean and variance per sample over the shadows that count."""

    def __init__(self, mean: Tensor, variance: Tensor):
        self.mean, self.variance = mean, variance

    @classmethod
    def fit(cls, margin: Tensor, mask: Tensor | None, name: str) -> "_Normal":
        mask = torch.ones_like(margin, dtype=torch.bool) if mask is None else mask
        count = mask.sum(0)
        if bool((count < 2).any()):
            raise RectifyError(f"LiRA needs 2 or more {name} shadow models of each sample; train more of them.")
        margin = margin.double().where(mask, 0.0)
        mean = margin.sum(0) / count
        return cls(mean, (margin - mean).where(mask, 0.0).square().sum(0) / (count - 1))

    def log_density(self, target: Tensor, shared_variance: bool) -> Tensor:
        variance = self.variance.mean() if shared_variance else self.variance
        variance = variance.clamp_min(1e-12)
        return -((target - self.mean).square() / variance + variance.log() + math.log(2 * math.pi)) / 2
