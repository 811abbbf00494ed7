"""A sentence about a map, found by search: where half of it lies, how concentrated it is, how it moved."""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 6


@dataclass(frozen=True)
class Region:
    """A rectangle of the image that holds half of a map's magnitude, in shares of height and width."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def area(self) -> float:
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def where(self) -> str:
        """In words, by its centre."""
        row = ("upper", "middle", "lower")[min(2, int(1.5 * (self.top + self.bottom)))]
        column = ("left", "centre", "right")[min(2, int(1.5 * (self.left + self.right)))]
        if row == "middle" and column == "centre":
            return "the centre"
        return f"the {row} {column}"


@cache
def _rectangles(cells: int) -> Tensor:
    spans = [(first, last) for first in range(cells) for last in range(first + 1, cells + 1)]
    found = [(top, left, bottom, right) for top, bottom in spans for left, right in spans]
    found.sort(key=lambda r: ((r[2] - r[0]) * (r[3] - r[1]), abs((r[2] - r[0]) - (r[3] - r[1]))))
    return torch.tensor(found)


def half_mass_region(map: Tensor) -> Region:
    """Return the smallest rectangle with half of the magnitude of a map (H, W), on a grid of 6x6 cells.

    Of equal areas the squarest, then the fullest, is taken.
    """
    share = F.adaptive_avg_pool2d(map.detach().double().abs()[None, None].cpu(), CELLS)[0, 0]
    share = share / share.sum().clamp_min(1e-300)
    table = F.pad(share.cumsum(0).cumsum(1), (1, 0, 1, 0))
    top, left, bottom, right = _rectangles(CELLS).unbind(1)
    mass = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    area = (bottom - top) * (right - left)
    enough = mass >= 0.5 - 1e-9
    if not bool(enough.any()):
        return Region(0, 0, 1, 1)
    shape = ((bottom - top) - (right - left)).abs()
    smallest = area + 1e-2 * shape - 1e-4 * mass
    best = int(torch.where(enough, smallest, torch.full_like(smallest, math.inf)).argmin())
    return Region(*(float(edge[best]) / CELLS for edge in (top, left, bottom, right)))


def describe_map(map: Tensor, gini: float, before: Tensor | None = None, drift: float | None = None) -> str:
    """Return one sentence about a map (H, W).

    Args:
        gini: of the map, as `map_statistics` gives it.
        before: the map of the last drawing, to tell where the centre of mass went.
        drift: `map_drift` from it.
    """
    if not bool(map.any()):
        return "zero everywhere"
    region = half_mass_region(map)
    spread = "concentrated" if gini > 0.75 else "spread out" if gini < 0.4 else "moderately concentrated"
    text = f"half in {region.where} ({region.area:.0%} of the area), {spread} (Gini {gini:.2f})"
    if before is None or not bool(before.any()):
        return text
    down, across = (a - b for a, b in zip(_centre(map), _centre(before), strict=True))
    way = "" if drift is None else f", drift {drift:.2f}"
    if math.hypot(down, across) < 0.05:
        return f"{text}, in place{way}"
    ways = ["down" if down > 0 else "up"] * (abs(down) >= 0.03) + ["right" if across > 0 else "left"] * (
        abs(across) >= 0.03
    )
    return f"{text}, moved {' and '.join(ways)} by {math.hypot(down, across):.0%}{way}"


def _centre(map: Tensor) -> tuple[float, float]:
    share = map.detach().double().abs().cpu()
    share = share / share.sum()
    rows = (torch.arange(map.shape[0], dtype=torch.float64) + 0.5) / map.shape[0]
    columns = (torch.arange(map.shape[1], dtype=torch.float64) + 0.5) / map.shape[1]
    return float((share.sum(1) * rows).sum()), float((share.sum(0) * columns).sum())
