"""Draw a reliability diagram from reduced sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..metrics.reliability import Reliability
from .figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVER, UNDER, BARS = "#c8553d", "#2a6f97", "#8d99ae"


def draw_reliability(data: Reliability, title: str, scores: dict[str, Tensor] | None = None) -> Figure:
    """Return accuracy against mean confidence per bin, with the signed gaps and the counts beneath.

    A point stands at its bin's mean confidence, not at the bin's centre; its area grows with the bin's count, its line
    to the diagonal is the bin's gap, coloured by sign, and its bar the 68 % Wilson interval of the accuracy. The grey
    boxes are the consistency band (Bröcker and Smith 2007): where 95 % of the accuracies of a calibrated forecast of so
    many samples fall.

    Args:
        data: reduced sums.
        title: of the figure.
        scores: what is logged beside ECE; the interval and the smooth and KS errors are printed if given.
    """
    count = data.count.cpu().numpy()
    filled = count > 0
    confidence, accuracy = data.mean_confidence.cpu().numpy()[filled], data.accuracy.cpu().numpy()[filled]
    samples, bins = int(data.samples), data.bins
    edges = np.linspace(0, 1, bins + 1)

    figure = new_figure(4.8, 6.9)
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3.4, 0.8, 1))
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.072, top=0.865, hspace=0.2)  # faster than a layout engine
    least, most = consistency_band(confidence, count[filled])
    width = np.full(len(confidence), 0.8 / bins)
    upper.bar(confidence, most - least, width, least, color="#d5d9de", linewidth=0, zorder=0.5)
    upper.plot([0, 1], [0, 1], color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    colour = np.where(confidence > accuracy, OVER, UNDER)
    upper.vlines(
        confidence, np.minimum(accuracy, confidence), np.maximum(accuracy, confidence), colour, lw=5, alpha=0.35
    )
    low, high = _wilson(accuracy, count[filled])
    upper.errorbar(
        confidence,
        accuracy,
        [accuracy - low, high - accuracy],
        fmt="none",
        ecolor="#333333",
        elinewidth=0.8,
        capsize=2,
        zorder=3,
    )
    area = 14 + 90 * count[filled] / max(count.max(), 1)
    upper.scatter(confidence, accuracy, area, c=colour, edgecolors="white", linewidths=0.8, zorder=4, clip_on=False)
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="accuracy")
    gap = float(data.signed_gap())
    side = "over-confident" if gap > 0 else "under-confident" if gap < 0 else "neither over- nor under-confident"
    figure.text(0.02, 0.97, title, fontsize=11.5, va="center")
    numbers = f"ECE (top-label, L1) {float(data.calibration_error()):.4f}"
    if scores is not None:
        ends = [float(scores[f"ece_top_label_l1_{end}"]) for end in ("low", "high")]
        numbers += f" [{ends[0]:.4f}, {ends[1]:.4f}], smooth {float(scores['ece_top_label_smooth']):.4f}"
        numbers += f", KS {float(scores['ks_top_label']):.4f}"
    figure.text(0.02, 0.936, numbers, fontsize=8.2, va="center")
    figure.text(0.02, 0.911, f"signed gap {gap:+.4f}, {side}", fontsize=8.2, va="center")
    about = f"N = {samples:,}, {bins} bins, bars: 68 % interval, grey: 95 % if calibrated"
    figure.text(0.02, 0.886, about, fontsize=8.2, va="center", color="#666666")
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", color=c, label=f"{n}-confident bin") for c, n in _SIDES]
    upper.legend(handles=marks, loc="lower right", fontsize=8, frameon=False)

    middle.axhline(0, color="#555555", linewidth=0.9)
    middle.bar((edges[:-1] + 0.5 / bins)[filled], confidence - accuracy, 0.8 / bins, color=colour, linewidth=0)
    middle.set_ylabel("gap", fontsize=9)
    middle.margins(y=0.15)

    lower.bar(edges[:-1], count, 1 / bins, align="edge", color=BARS, edgecolor="white", linewidth=0.6)
    if samples:
        mean, hit = float(data.confidence.sum()) / samples, float(data.hits.sum()) / samples
        lower.axvline(mean, color="#222222", linewidth=1.1, label=f"mean confidence {mean:.3f}")
        lower.axvline(hit, color="#222222", linewidth=1.1, linestyle=":", label=f"accuracy {hit:.3f}")
        lower.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.95), ncols=2, fontsize=7.5, frameon=False)
    lower.set(xlabel="confidence (largest probability)", ylabel="samples")
    for axes in (upper, middle, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5)
    return figure


def consistency_band(confidence: np.ndarray, count: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the binomial interval of the accuracy of each bin, were its accuracy its mean confidence.

    Args:
        confidence: (B,) means of filled bins.
        count: (B,) samples.
        level: share inside.
    """
    from scipy.special import bdtr, bdtrik

    p = np.clip(confidence, 1e-9, 1 - 1e-9)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        k = np.ceil(np.nan_to_num(bdtrik(tail, count.astype(float), p)))  # the least k with P(hits <= k) >= tail
        k = np.where((k > 0) & (bdtr(k - 1, count, p) >= tail), k - 1, k)
        ends.append(np.clip(k, 0, count) / count)
    return ends[0], ends[1]


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson interval of a binomial share for one standard deviation; it stays inside [0, 1]."""
    centre = (share + 0.5 / count) / (1 + 1 / count)
    half = np.sqrt(share * (1 - share) / count + 0.25 / count**2) / (1 + 1 / count)
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


_SIDES = ((OVER, "over"), (UNDER, "under"))
