"""Masks of given densities from scores."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from ..errors import RectifyError
from .radix_selection import Threshold, packed_selection, radix_thresholds
from .weight_mask import WeightMask

Scope = Literal["global", "layer"]


def kept_of(density: float, total: int) -> int:
    """⌊ρN⌋ of the density as it is written: 0.29 of 100 is 29, which its nearest float misses."""
    return int(Fraction(repr(float(density))) * total)


def saliency_masks(
    scores: Mapping[str, Tensor],
    densities: Sequence[float],
    *,
    architecture: str = "",
    scope: Scope = "global",
    settings: Mapping[str, str] | None = None,
) -> Iterator[WeightMask]:
    """Yield the mask of each density: the ⌊ρN⌋ largest scores, ties in traversal order.

    All thresholds come from the same three passes over the scores, and one mask exists at a time.

    Args:
        scores: fp32 and not negative, by plain parameter name, as `saliency_scores` returns them.
        architecture: fingerprint of the network, by which a mask of another one is refused.
        scope: rank all weights together, or those of each parameter apart (⌊ρn⌋ of each).
        settings: how the scores were made, kept in the mask.

    Raises:
        RectifyError: a density outside (0, 1], one that keeps no weight, or scores that are not finite.
    """
    for density in densities:
        check_density(density, "weight saliency")
    if scope not in ("global", "layer"):
        raise RectifyError(f"weight saliency: scope is {scope}; choose global or layer.")
    names, tensors = list(scores), list(scores.values())
    groups = [list(range(len(names)))] if scope == "global" else [[place] for place in range(len(names))]
    sizes = [sum(tensors[place].numel() for place in group) for group in groups]
    kept = [[kept_of(density, size) for size in sizes] for density in densities]
    for density, counts in zip(densities, kept, strict=True):
        if sum(counts) == 0:
            raise RectifyError(f"weight saliency: density {density} keeps none of {sum(sizes)} weights; raise it.")
    limits: list[dict[int, Threshold]] = []
    for place, group in enumerate(groups):
        asked = sorted({counts[place] for counts in kept} - {0})
        found = radix_thresholds([tensors[i] for i in group], asked) if asked else []
        limits.append(dict(zip(asked, found, strict=True)))
    about = {"scope": scope, **(settings or {})}
    shapes = {name: score.shape for name, score in scores.items()}
    for density, counts in zip(densities, kept, strict=True):
        packed: dict[str, Tensor] = {}
        for limit, group, count in zip(limits, groups, counts, strict=True):
            members = [tensors[i] for i in group]
            if count:
                bits = packed_selection(members, limit[count])
            else:
                bits = (torch.zeros(-(-member.numel() // 8), dtype=torch.uint8) for member in members)
            packed.update(zip([names[i] for i in group], bits, strict=True))
        yield WeightMask(packed, shapes, float(density), dict(about), architecture)


def check_density(density: float, who: str) -> None:
    """Raise RectifyError unless the density lies in (0, 1]."""
    if not 0 < density <= 1:
        raise RectifyError(f"{who}: density is {density}; it is the share of weights that may move, in (0, 1].")
