"""Draw robustness by class, the energies, and what became of both during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.class_accuracy import TAIL, ClassAccuracies
from ..metrics.energy_sums import REACH, WIDTH, Energies
from .figures import new_figure
from .robustness_history import RobustnessHistory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAN, ROBUST, TAILED = "#b9c6d0", "#2a6f97", "#c8553d"
NAMED = 30  # more classes than this are drawn as curves


def draw_class_accuracies(
    clean: ClassAccuracies, robust: ClassAccuracies, attack: str, names: Sequence[str] | None, title: str
) -> Figure:
    """Return clean and robust accuracy of each class, the least robust first; the tail is the worst 30 %."""
    below, above = (each.accuracy.cpu().numpy() for each in (robust, clean))
    order = np.argsort(below, kind="stable")
    order = order[~np.isnan(below[order])]
    below, above, tail = below[order], above[order], int(np.ceil(TAIL * len(order) - 1e-9))
    few = len(order) <= NAMED
    figure = new_figure(6.4, 1.75 + 0.25 * len(order) if few else 4.4)
    height = figure.get_figheight()
    axes = figure.subplots()
    figure.subplots_adjust(left=0.2 if few else 0.1, right=0.97, bottom=0.5 / height, top=1 - 0.92 / height)
    place = np.arange(len(order))
    if few:
        axes.barh(place, above, 0.78, color=CLEAN, label="clean")
        axes.barh(place, below, 0.5, color=ROBUST, label=f"robust ({attack})")
        axes.barh(place[:tail], below[:tail], 0.5, color=TAILED, label="robust, worst 30 % of classes")
        labels = [str(names[c])[:18] if names is not None and c < len(names) else str(c) for c in order]
        axes.set_yticks(place, labels)
        for label in axes.get_yticklabels()[:tail]:  # a class that fell whole has no bar to colour
            label.set_color(TAILED)
        axes.set(xlim=(0, 1), ylim=(len(order) - 0.4, -0.6), xlabel="accuracy")
        axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    else:
        axes.vlines(place, below, above, color=CLEAN, linewidth=max(0.4, 250 / len(order)), label="clean")
        axes.plot(place[tail:], below[tail:], ".", color=ROBUST, markersize=4, label=f"robust ({attack})")
        axes.plot(place[:tail], below[:tail], ".", color=TAILED, markersize=4, label="robust, worst 30 % of classes")
        axes.set(ylim=(0, 1), xlim=(-1, len(order)), ylabel="accuracy", xlabel="class, by robust accuracy")
        axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    _plain(axes)
    scores = robust.scores()
    figure.text(0.02, 1 - 0.2 / height, title, fontsize=11, va="center")
    line = (
        f"clean {clean.overall():.3f}   robust {scores['']:.3f}   worst class {scores['worst_class']:.3f}   "
        f"tail-30 {scores['tail30']:.3f}   std {scores['class_std']:.3f}   N = {clean.samples:,}"
    )
    figure.text(0.02, 1 - 0.45 / height, line, fontsize=8.5, va="center")
    figure.legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.01, 1 - 0.54 / height),
                  ncols=3, fontsize=8, frameon=False)  # fmt: skip
    return figure


def draw_energies(data: Energies, attack: str, title: str) -> Figure:
    """Return histograms of E(x) and E(x_adv), and of their difference."""
    figure = new_figure(6.4, 5.0)
    upper, lower = figure.subplots(2, 1)
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.1, top=0.83, hspace=0.48)
    counts = data.histograms.cpu().numpy()
    clean, attacked, gap = data.means
    both = _window(counts[0] + counts[1])
    for row, colour, name in ((0, CLEAN, f"E(x), mean {clean:.2f}"), (1, TAILED, f"E(x_adv), mean {attacked:.2f}")):
        edges, bars = _regrouped(counts[row], both)
        upper.stairs(bars, edges, fill=True, color=colour, alpha=0.85 if row == 0 else 0.5, label=name)
    upper.axvline(clean, color="#5d6d78", linewidth=1.2)
    upper.axvline(attacked, color=TAILED, linewidth=1.2)
    upper.set(xlabel="energy, nats", ylabel="samples")
    edges, bars = _regrouped(counts[2], _window(counts[2]))
    lower.stairs(bars, edges, fill=True, color=ROBUST, alpha=0.85, label=f"ΔE = E(x) - E(x_adv), mean {gap:+.2f}")
    lower.axvline(gap, color="#1b4965", linewidth=1.2)
    lower.axvline(0, color="#444444", linewidth=0.9, linestyle=(0, (4, 3)))
    lower.set(xlabel="energy gap, nats", ylabel="samples")
    for axes in (upper, lower):
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.97), fontsize=8, frameon=False, ncols=2)
        axes.grid(alpha=0.25, linewidth=0.6)
        _plain(axes)
    figure.text(0.02, 0.955, title, fontsize=11, va="center")
    figure.text(0.02, 0.905, f"attack {attack}, N = {int(data.samples):,}", fontsize=8.5, va="center", color="#666666")
    return figure


def draw_history(history: RobustnessHistory, attack: str) -> Figure:
    """Return clean and robust accuracy over the epochs, and the mean energy gap with its phases."""
    rows, best = history.rows, history.best
    assert best is not None
    epochs = [row.epoch for row in rows]
    figure = new_figure(6.4, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    figure.subplots_adjust(left=0.11, right=0.97, bottom=0.1, top=0.86, hspace=0.12)
    upper.plot(epochs, [row.clean for row in rows], "o-", color="#8d99ae", markersize=3, label="clean")
    upper.plot(epochs, [row.robust for row in rows], "o-", color=ROBUST, markersize=3, label=f"robust ({attack})")
    upper.plot([best.epoch], [best.robust], "o", color=TAILED, markersize=7, label=f"best, epoch {best.epoch}")
    upper.hlines(best.robust, best.epoch, epochs[-1], color=TAILED, linewidth=0.9, linestyle=(0, (4, 3)))
    upper.set(ylim=(0, 1), ylabel="accuracy")
    upper.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=8, frameon=False)
    lower.plot(epochs, [row.energy_gap for row in rows], "-", color="#666666", linewidth=0.9)
    colours = {"settling": CLEAN, "stable": ROBUST, "falling": TAILED}
    phases = history.phases()
    for phase, colour in colours.items():
        chosen = [row for row, of in zip(rows, phases, strict=True) if of == phase]
        if chosen:
            lower.plot([r.epoch for r in chosen], [r.energy_gap for r in chosen], "o", color=colour, markersize=5,
                       label=phase)  # fmt: skip
    lower.set(ylabel="mean ΔE, nats", xlabel="epoch")
    lower.margins(y=0.25)
    lower.legend(loc="best", fontsize=8, frameon=False, ncols=3)
    from matplotlib.ticker import MaxNLocator

    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        axes.grid(alpha=0.25, linewidth=0.6)
        _plain(axes)
    figure.text(0.02, 0.965, "robustness in training", fontsize=11, va="center")
    line = f"best {best.robust:.3f}, last {rows[-1].robust:.3f}, gap {history.gap:.3f}"
    figure.text(0.02, 0.92, line, fontsize=8.5, va="center")
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)


def _window(counts: np.ndarray) -> tuple[int, int, int]:
    """First bin, last bin and bins a bar: 16 to 50 bars, by the number of samples, hold all but 2 in 1000 of them."""
    total = np.cumsum(counts)
    if not len(total) or not total[-1]:
        return 0, len(counts), max(1, len(counts) // 50)
    first, last = np.searchsorted(total, [0.001 * total[-1] + 1e-9, 0.999 * total[-1]])
    bars = max(1, int(last - first + 1) // int(np.clip(1.5 * np.sqrt(total[-1]), 16, 50)))
    return max(int(first) - bars, 0), min(int(last) + 1 + bars, len(counts)), bars


def _regrouped(counts: np.ndarray, window: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    first, last, bars = window
    starts = np.arange(first, last, bars)
    heights = np.array([counts[start : start + bars].sum() for start in starts])
    return np.append(starts, starts[-1] + bars) * WIDTH - REACH, heights
