"""Draw mixed examples in the plane of three classes, and their norm over λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..metrics import MixGeometry
from ..metrics.mix_geometry import LAMBDAS
from .figures import new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME, DIFFERENT = "#2a6f97", "#c8553d"


def draw_collapse(
    rows: Tensor,
    weight: Tensor,
    geometry: MixGeometry,
    scores: dict[str, Tensor],
    title: str,
    names: Sequence[str] | None = None,
) -> Figure:
    """Return the plane of three classifier rows with the features of mixes among those classes, and the norm profile.

    Args:
        rows: (n, 3 + D) of label, label, λ and feature.
        weight: (K, D) of the classifier.
        geometry: reduced sums.
        scores: to print.
        title: of the figure.
        names: of the K classes; by default their numbers.
    """
    trio = _busiest(rows, len(weight))
    corners = weight[trio]
    plane = torch.linalg.svd(corners - corners.mean(0), full_matrices=False)[2][:2]
    inside = torch.isin(rows[:, 0].long(), trio) & torch.isin(rows[:, 1].long(), trio)
    points = rows[inside]
    centre = points[:, 3:].mean(0) if len(points) else 0  # features after a ReLU stand far from the origin
    place, lam = (points[:, 3:] - centre) @ plane.T, points[:, 2]
    arrows = (corners - weight.mean(0)) @ plane.T
    scale = place.norm(dim=1).quantile(0.98) if len(place) else torch.ones(())
    arrows = arrows / arrows.norm(dim=1).max().clamp_min(1e-12) * scale

    figure = new_figure(9.4, 5.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.12, top=0.79, wspace=0.24)
    from matplotlib.colors import LinearSegmentedColormap

    away = points[:, 0] != points[:, 1]
    for own, colour, size in ((away, DIFFERENT, 9), (~away, SAME, 12)):
        shade = LinearSegmentedColormap.from_list("shade", ["#dddddd", colour])
        mixed = 1 - (2 * lam[own] - 1).abs()  # 0 unmixed, 1 half and half
        left.scatter(*place[own].T, s=size, c=mixed, cmap=shade, vmin=-0.6, vmax=1, linewidths=0, alpha=0.75)
    left.scatter(*(1.15 * arrows).T, s=0)  # an arrow does not widen the axes
    for (x, y), name in zip(arrows.tolist(), trio.tolist(), strict=True):
        left.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": "black", "linewidth": 1.4})
        word = f"class {name}" if names is None else short_name(names[name], 16)
        left.text(1.08 * x, 1.08 * y, word, fontsize=8.5, ha="center", va="center")
    left.set(xlabel="plane of three classifier rows, centred; paler: less mixed", aspect="equal")
    left.set_box_aspect(0.9)
    left.set_adjustable("datalim")
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", linestyle="", color=c, label=n)
        for c, n in ((SAME, "same class"), (DIFFERENT, "two classes"))
    ]
    left.legend(handles=marks, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=2)

    mean, spread = geometry.norm_profile()
    grid = torch.linspace(0, 1, LAMBDAS)
    for place_of, colour, name in ((0, SAME, "same class"), (1, DIFFERENT, "two classes")):
        centre, half = mean[place_of].cpu(), spread[place_of].cpu()
        right.plot(grid, centre, color=colour, marker="o", markersize=3.5, label=name)
        right.fill_between(grid, centre - half, centre + half, color=colour, alpha=0.15, linewidth=0)
    right.set(xlabel="λ", ylabel="length of the feature, mean and deviation")
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8)
    figure.text(0.015, 0.955, title, fontsize=11, va="center")
    number = {name: float(value) for name, value in scores.items()}
    figure.text(
        0.015,
        0.905,
        f"NC1 {number['nc1']:.3g}   NC2 norms {number['nc2_norm']:.3f}, angles {number['nc2_angle']:.3f}   "
        f"NC3 {number['nc3']:.3f}   NC4 {number['nc4']:.3f}",
        fontsize=8.5,
        va="center",
    )
    figure.text(
        0.015,
        0.868,
        f"spread of same-class mixes {number['mix_same_spread']:.3f}   off plane {number['mix_off_plane']:.3f}   "
        f"amplification {number['mix_amplification']:.3f}",
        fontsize=8.5,
        va="center",
        color="#444444",
    )
    return figure


def _busiest(rows: Tensor, classes: int) -> Tensor:
    """The three classes with most mixes, in order of their label; all, if there are fewer."""
    count = torch.bincount(rows[:, :2].long().flatten(), minlength=classes)
    return count.argsort(descending=True, stable=True)[: min(3, classes)].sort().values
