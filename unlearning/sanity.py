"""A look at a mask before it is trusted."""

from typing import Any

import torch

from ..randomness import keyed_generator
from .weight_mask import WeightMask, count_ones


def mask_sanity(mask: WeightMask) -> dict[str, Any]:
    """Describe a mask by plain values: what can be seen wrong, is.

    A mask of no meaning overlaps a random one by its density, and so does every mask: `overlap_with_random` far from
    `density` means broken bits. `share` tells where the salient weights lie; a layer at 0 does not move at all.

    Returns:
        `density` (share of ones), `kept`, `weights`, `bytes`, `digest`, `overlap_with_random` (share of its ones that a
        random mask of the same number of ones keeps), `share` by parameter.
    """
    share = {name: mask.kept(name) / max(1, shape.numel()) for name, shape in mask.shapes.items()}
    return {
        "density": mask.ones / max(1, mask.size),
        "kept": mask.ones,
        "weights": mask.size,
        "bytes": sum(len(packed) for packed in mask.packed.values()),
        "digest": mask.digest,
        "overlap_with_random": _random_overlap(mask),
        "share": {name: float(value) for name, value in share.items()},
    }


def mask_overlap(first: WeightMask, second: WeightMask) -> float:
    """Share of the first mask's ones that the second keeps as well; their density if they have nothing in common."""
    both = sum(
        count_ones(first.packed[name] & second.packed[name]) for name in first.packed.keys() & second.packed.keys()
    )
    return both / max(1, first.ones)


def _random_overlap(mask: WeightMask) -> float:
    """Against independent bits of the mask's density: within O(N^-1/2) of a random mask of the same number."""
    density = mask.ones / max(1, mask.size)
    both = 0
    for name in mask.packed:
        keep = mask.bits(name).reshape(-1)
        draws = torch.rand(keep.numel(), generator=keyed_generator("mask_sanity", name))
        both += int((keep & (draws < density)).sum())
    return both / max(1, mask.ones)
