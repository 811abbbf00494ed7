"""Signs that a network hides its gradient, so that the figures of gradient attacks mean little."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks import Attack, Square, UnitScaleCrossEntropy
from ..collectives import sum_over_ranks

COUNTS = (
    "samples",
    "right",  # on the images as they are
    "beyond_gradients",  # broken by the black-box attack alone
    "weak_only",  # broken by the weaker white-box attack and not by the stronger
    "strong_only",
    "scaled_only",  # broken by the attack on rescaled logits and not on the logits as they are
    "plain_only",
    "gradient_zero",  # right, and no pixel has a gradient
    "entries",
    "entries_zero",
    "differs",  # two forward passes give other logits
    "softmax",  # the logits are probabilities
)
FEW = 0.002  # AutoAttack's own limit for Square: 0.2 points
SCALE_LIMIT, ZERO_LIMIT = 0.02, 0.01


@dataclass(frozen=True)
class Flag:
    """One check: `value` above `limit` raises it; both are shares of the samples. None if it was not made."""

    name: str
    value: float | None
    limit: float
    meaning: str

    @property
    def raised(self) -> bool:
        return self.value is not None and self.value > self.limit


class MaskingChecks:
    """Runs the checks batch by batch and adds up what they find, over ranks at the end.

    Args:
        attack: the weaker white-box attack, run once more on rescaled logits.
        queries: of the black-box attack, 0 for none.
    """

    def __init__(self, attack: Attack, queries: int):
        self.attack, self.queries = attack, queries
        self._counts: dict[str, Tensor] = {}

    def add(
        self,
        network: nn.Module,
        image: Tensor,
        label: Tensor,
        keep: Tensor,
        right: Tensor,
        weak: Tensor,
        strong: Tensor,
        every: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Look at a batch; gradients must be enabled.

        Args:
            keep, right, weak, strong, every: (B,) bool: counts; right as it is, and under the weaker, the stronger and
                all white-box attacks.
        """
        self._add("samples", keep)
        self._add("right", keep & right)
        self._add("weak_only", keep & ~weak & strong)
        self._add("strong_only", keep & weak & ~strong)
        if self.queries and image.ndim == 4:
            square = Square(getattr(self.attack, "eps", 8 / 255), self.queries)
            x = square(network, image, label, generator=generator).image
            self._add("beyond_gradients", keep & every & ~_right(network, x, label))
        x = self.attack(network, image, label, UnitScaleCrossEntropy(), generator).image
        scaled = right & _right(network, x, label)
        self._add("scaled_only", keep & weak & ~scaled)
        self._add("plain_only", keep & ~weak & scaled)
        self._gradients(network, image, label, keep & right)
        with torch.no_grad():
            once, twice = network(image), network(image)
        self._add("differs", keep & ((once - twice).abs() > 1e-3 * (1 + once.abs())).any(1))
        self._add("softmax", keep & (once >= 0).all(1) & ((once.sum(1) - 1).abs() < 1e-3))

    def _gradients(self, network: nn.Module, image: Tensor, label: Tensor, keep: Tensor) -> None:
        x = image.detach().clone().requires_grad_()
        loss = nn.functional.cross_entropy(network(x), label, reduction="sum")
        zero = (torch.autograd.grad(loss, x)[0] == 0).flatten(1)
        self._add("gradient_zero", keep & zero.all(1))
        self._add("entries", keep[:, None].expand_as(zero))
        self._add("entries_zero", keep[:, None] & zero)

    def _add(self, name: str, chosen: Tensor) -> None:
        self._counts[name] = self._counts.get(name, 0) + chosen.sum()

    def flags(self) -> list[Flag]:
        """Return all checks over all ranks; every rank must call this after the same number of batches."""
        if not self._counts:
            return []
        some = next(iter(self._counts.values()))
        found = sum_over_ranks(torch.stack([self._counts.get(name, torch.zeros_like(some)) for name in COUNTS]))
        count = dict(zip(COUNTS, found.tolist(), strict=True))
        samples, right = max(count["samples"], 1), max(count["right"], 1)

        def excess(more: str, less: str, limit: float) -> tuple[float, float]:
            """The difference of paired counts, and the limit, at least two standard deviations of it."""
            noise = 2 * math.sqrt(count[more] + count[less]) / samples
            return (count[more] - count[less]) / samples, max(limit, noise)

        steps, steps_limit = excess("weak_only", "strong_only", FEW)
        scale, scale_limit = excess("scaled_only", "plain_only", SCALE_LIMIT)
        beyond = count["beyond_gradients"] / samples if self.queries else None
        return [
            Flag("black_box_below_white_box", beyond, max(FEW, 2 / samples), "broken by Square and by no gradient"),
            Flag("more_steps_raise_accuracy", steps, steps_limit, "right under the stronger attack, net"),
            Flag("loss_scale", scale, scale_limit, "broken only once the logits are rescaled, net"),
            Flag("zero_gradient", count["gradient_zero"] / right, ZERO_LIMIT, "right, and no pixel has a gradient"),
            Flag("random_output", count["differs"] / samples, 0.0, "two passes give other logits"),
            Flag("softmax_output", count["softmax"] / samples, 0.5, "the logits are probabilities"),
        ]

    def zero_entries(self) -> float:
        """The share of pixels without gradient, over all ranks; every rank must call this."""
        some = [self._counts[name] for name in ("entries_zero", "entries")]
        zero, entries = sum_over_ranks(torch.stack(some)).tolist()
        return zero / max(entries, 1)


def _right(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x).argmax(1) == label
