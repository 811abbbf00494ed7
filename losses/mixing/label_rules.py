"""How the label's λ follows from the image's λ (the decoupled mixup of Zou et al., ICML 2023, arXiv 2303.08433)."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor

from ...errors import RectifyError, did_you_mean
from ._draws import Per, beta


class LabelFunction:
    """A function from the images' λ (B,) to the labels' λ (B,), by class so that a config can name it."""

    def __call__(self, lam: Tensor) -> Tensor:
        raise NotImplementedError


WORDS = ("same", "independent")
# Callers add `| str`, so that a parser hands a misspelt word on to `check_label_rule`, which names the choices.
LabelRule = Literal["same", "independent"] | float | LabelFunction | Callable[[Tensor], Tensor]


class PowerLabel(LabelFunction):
    """The label function g(λ) = max(λ, 1-λ)^power for the heavier image: above 1 softer labels, below 1 harder ones.

    Args:
        power: exponent above 0; 1 is the rule `same`.
    """

    def __init__(self, power: float):
        if power <= 0:
            raise RectifyError(f"PowerLabel: power is {power}; it must be above 0.")
        self.power = power

    def __call__(self, lam: Tensor) -> Tensor:
        # never below one half: the heavier image keeps the heavier label
        heavier = torch.maximum(lam, 1 - lam).pow(self.power).clamp_min(0.5)
        return torch.where(lam >= 0.5, heavier, 1 - heavier)


def check_label_rule(owner: str, rule: LabelRule | str) -> LabelRule:
    """Return the rule if it is `same`, `independent`, a number in [0, 1] or a callable, else raise RectifyError.

    A callable is tried on λ = 0, 1/16, … 1 on the CPU, so that a wrong one fails here and not at a step.
    """
    if isinstance(rule, int | float) and not isinstance(rule, bool):
        if 0 <= rule <= 1:
            return float(rule)
    elif rule in WORDS:
        return cast(LabelRule, rule)
    elif callable(rule):
        _try_function(owner, rule)
        return rule
    hint = did_you_mean(rule, WORDS) if isinstance(rule, str) else ""
    raise RectifyError(
        f"{owner}: label is {rule!r}; choose same, independent, a fixed weight in [0, 1] or a function of lambda.{hint}"
    )


def _try_function(owner: str, rule: Callable[[Tensor], Tensor]) -> None:
    grid = torch.linspace(0, 1, 17)
    label = rule(grid.clone())
    if not isinstance(label, Tensor) or label.shape != grid.shape:
        found = f"a tensor of shape {tuple(label.shape)}" if isinstance(label, Tensor) else f"a {type(label).__name__}"
        raise RectifyError(f"{owner}: label is a function that returns {found} for (17,); map (B,) to (B,).")
    wrong = ~((label >= 0) & (label <= 1))
    if wrong.any():
        lam, value = grid[wrong][0].item(), label[wrong][0].item()
        raise RectifyError(f"{owner}: label is a function with the value {value:g} at {lam:g}; keep it in [0, 1].")


def same_side(label_lam: Tensor, image_lam: Tensor) -> Tensor:
    """Reflect label weights at ½ where the heavier label would contradict the heavier image."""
    return torch.where((label_lam - 0.5) * (image_lam - 0.5) < 0, 1 - label_lam, label_lam)


def label_lambda(
    rule: LabelRule, image_lam: Tensor, alpha: float, per: Per, generator: torch.Generator | None
) -> Tensor:
    """Return λ_y, (B,), from λ_x, (B,), on the same side of ½.

    Args:
        rule: `same`; `independent` (another Beta(alpha, alpha) draw); a number, the heavier image's label weight;
            or a function from (B,) to (B,).
    """
    if isinstance(rule, float):
        return same_side(torch.full_like(image_lam, rule), image_lam)
    if callable(rule):
        return same_side(rule(image_lam), image_lam)
    if rule == "independent":
        return same_side(beta(alpha, alpha, len(image_lam), per, generator, image_lam.device), image_lam)
    return image_lam
