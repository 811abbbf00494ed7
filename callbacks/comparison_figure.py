"""Draw the calibration of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .calibration_record import CalibrationRecord
from .figures import new_figure
from .reliability_figure import consistency_band

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a05195", "#b8860b", "#56b4e9", "#8c564b", "#444444")
COLUMNS = (  # score, title, digits, factor
    ("ece_top_label_l1", "ECE", 4, 1),
    ("nll", "NLL", 3, 1),
    ("brier", "Brier", 3, 1),
    ("error", "error, %", 2, 100),
)
PLACES = (0.33, 0.515, 0.68, 0.84)  # of the columns, share of the width
WIDTH, ROW, PANELS = 8.6, 0.235, 5.6  # inches


def draw_calibration_comparison(runs: Mapping[str, CalibrationRecord]) -> Figure:
    """Return the scores of every run, its signed gap over confidence, and how its confidence is distributed.

    All runs have the same bins; within a bin they stand side by side. A point is mean confidence minus accuracy, its
    size grows with the samples of the bin. The pale box around zero is the consistency band: where 95 % of the gaps of
    a calibrated network with that confidence and so many samples would fall (Bröcker and Smith 2007); a point inside it
    is hollow. The intervals of the table are 95 %: bootstrap for ECE, normal for NLL and Brier, Wilson for the error.

    Args:
        runs: name -> record, of one stage; drawn in this order.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    records = list(runs.values())
    head = 0.86 + ROW * len(runs)
    height = head + PANELS
    figure = new_figure(WIDTH, height)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    figure.subplots_adjust(left=0.085, right=0.985, bottom=0.52 / height, top=1 - (head + 0.12) / height, hspace=0.1)
    _table(figure, runs, height)

    bins = records[0].bins
    filled = [place for record in records for place, count in enumerate(record.count) if count]
    first = min(filled, default=0)
    for place in range(first, bins, 2):
        for axes in (upper, lower):
            axes.axvspan(place / bins, (place + 1) / bins, color="#f4f5f7", zorder=0, linewidth=0)
    upper.axhline(0, color="#555555", linewidth=0.9, zorder=1)
    reach = max([_draw_gaps(upper, record, order, len(runs)) for order, record in enumerate(records)])
    for order, record in enumerate(records):
        share = np.array(record.count) / max(1, record.samples)
        edges = np.linspace(0, 1, bins + 1)
        lower.stairs(share[first:], edges[first:], color=COLOURS[order], linewidth=1.6, zorder=3)
        lower.stairs(share[first:], edges[first:], color=COLOURS[order], alpha=0.07, fill=True, linewidth=0)
    reach = max(0.02, 1.15 * reach)
    upper.set(xlim=(first / bins, 1), ylim=(-reach, reach), ylabel="mean confidence − accuracy")
    upper.yaxis.set_major_locator(MaxNLocator(7, symmetric=True))
    for at, word, side in ((0.975, "over-confident", "top"), (0.025, "under-confident", "bottom")):
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.5}
        style = {"fontsize": 9, "color": "#666666", "style": "italic", "bbox": paper, "zorder": 2.5}
        upper.text(0.012, at, word, transform=upper.transAxes, va=side, **style)
    lower.set(xlabel="confidence (largest probability)", ylabel="share of samples")
    lower.set_ylim(0, 1.08 * max([max(each.count) / max(1, each.samples) for each in records]) or 1)
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5)
    figure.align_ylabels([upper, lower])
    return figure


def _draw_gaps(axes: Any, record: CalibrationRecord, order: int, runs: int) -> float:
    """Draw a run's boxes and points; return how far the points lie from zero."""
    count = np.array(record.count)
    filled = count > 0
    count, hits, total = count[filled], np.array(record.hits)[filled], np.array(record.confidence)[filled]
    if not len(count):
        return 0.0
    confidence, accuracy = total / count, hits / count
    gap = confidence - accuracy
    low, high = consistency_band(confidence, count)
    slot = 0.84 / record.bins / runs
    place = (np.flatnonzero(filled) + 0.08) / record.bins + slot * (order + 0.5)
    colour = COLOURS[order]
    axes.bar(place, high - low, 0.86 * slot, confidence - high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    axes.vlines(place, np.minimum(gap, 0), np.maximum(gap, 0), colour, lw=1.1, alpha=0.8, zorder=3)
    inside = (accuracy >= low) & (accuracy <= high)
    area = (12 + 60 * count / count.max()) / max(1, runs / 3)
    face = np.where(inside, "white", colour)
    axes.scatter(place, gap, area, c=face, edgecolors=colour, linewidths=1.2, zorder=4, clip_on=False)
    return float(np.abs(gap).max())


def _table(figure: Figure, runs: Mapping[str, CalibrationRecord], height: float) -> None:
    """Write the title and a row of scores for each run, which serves as legend."""
    first = next(iter(runs.values()))
    sizes = sorted({record.samples for record in runs.values()})
    about = f"N = {sizes[0]:,}" if len(sizes) == 1 else f"N = {sizes[0]:,} to {sizes[-1]:,}"
    figure.text(0.02, 1 - 0.2 / height, f"Calibration on {first.stage}", fontsize=12, va="center")
    note = f"{about}, {first.bins} bins; boxes: 95 % if calibrated, hollow points lie inside; [95 % interval]"
    figure.text(0.02, 1 - 0.44 / height, note, fontsize=8.2, va="center", color="#666666")
    y = 1 - 0.76 / height
    for place, (_, title, _, _) in zip(PLACES, COLUMNS, strict=True):
        figure.text(place, y, title, fontsize=8.6, va="center", ha="left", color="#666666")
    for order, (name, record) in enumerate(runs.items()):
        y = 1 - (0.76 + ROW * (order + 0.98)) / height
        figure.text(0.022, y, "\u25cf", fontsize=11, va="center", color=COLOURS[order])
        label = name if len(sizes) == 1 else f"{name}  (N = {record.samples:,})"
        figure.text(0.045, y, label, fontsize=9.2, va="center", color=COLOURS[order], fontweight="bold")
        for place, (score, _, digits, scale) in zip(PLACES, COLUMNS, strict=True):
            low, high = (f"{scale * end:.{digits}f}" for end in record.intervals[score])
            figure.text(place, y, f"{scale * record.scores[score]:.{digits}f}", fontsize=9.2, va="center")
            figure.text(
                place + (0.062 if digits == 4 else 0.053),
                y,
                f"[{low}, {high}]",
                fontsize=7.4,
                va="center",
                color="#666666",
            )
