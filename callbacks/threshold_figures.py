"""Draw verification at one threshold: DET curve, utility of every class, rates of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..metrics.operating_point import ClassRates, det
from ..metrics.retrieval_evaluation import RetrievalEvaluation
from .figures import new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, ACCENT, SECOND, GREY = "#222222", "#c8553d", "#2a6f97", "#8d99ae"
TICKS = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def det_figure(
    evaluation: RetrievalEvaluation,
    title: str,
    calibration: RetrievalEvaluation | None = None,
    threshold: float | None = None,
    calibrate_far: float | None = None,
) -> Figure:
    """Return false reject against false accept rate on probit axes, where two normal distributions give a line.

    Args:
        calibration: the classes that the threshold was fitted on, drawn beside.
        threshold: the fitted cosine, marked on both curves.
        calibrate_far: the rate it was fitted to.
    """
    figure, axes = _framed(title, 4.9, 4.9)
    drawn = [("evaluated classes", evaluation, SECOND)]
    if calibration is not None:
        drawn.append(("calibration classes", calibration, GREY))
    for name, rows, colour in drawn:
        far, frr = (values.cpu().numpy() for values in det(rows.histogram))
        axes.plot(far, frr, color=colour, linewidth=1.8, label=name, zorder=3)
        if threshold is not None:
            place = _probit(rows.rates_at(threshold))
            axes.plot(*place, "o", color=colour, markeredgecolor="white", markersize=8, zorder=5, clip_on=False)
    low, high = _probit((0.0002, 0.97))
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.axvspan(*_probit(evaluation.far), color=GREY, alpha=0.15, linewidth=0, label="FAR range of OPIS")
    if threshold is not None and calibrate_far is not None:
        axes.axvline(
            _probit([calibrate_far])[0],
            color=ACCENT,
            linewidth=1,
            label=f"FAR {calibrate_far:.0%}, fitted on calibration",
        )
    ticks = _probit(TICKS)
    labels = [f"{100 * tick:g}" for tick in TICKS]
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="false accept rate (%)", ylabel="false reject rate (%)")
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    subtitle = f"EER {evaluation.scores['eer']:.2%}"
    if threshold is not None:
        far_there, frr_there = evaluation.rates_at(threshold)
        subtitle += f"    at cosine {threshold:.3f}: FAR {far_there:.2%}, FRR {frr_there:.2%}"
    _subtitle(figure, subtitle)
    return figure


def utility_figure(evaluation: RetrievalEvaluation, title: str) -> Figure:
    """Return U_i(d) of every class over the calibration range: the thinner the bundle, the smaller OPIS."""
    from matplotlib.collections import LineCollection

    utility = evaluation.utility
    where, values = utility.distance.cpu().numpy(), utility.utility.cpu().numpy()
    figure, axes = _framed(title, 5.6, 4.6)
    mean, spread = values.mean(0), values.std(0)
    level = values.mean(1)
    lines = LineCollection([np.column_stack((where, curve)) for curve in values], linewidths=0.6, alpha=0.45)
    lines.set_array(level)
    lines.set_cmap("viridis")
    axes.add_collection(lines)
    axes.fill_between(where, mean - spread, mean + spread, color=ACCENT, alpha=0.18, linewidth=0, zorder=3)
    axes.plot(where, mean, color=ACCENT, linewidth=2, label="mean, and one standard deviation", zorder=4)
    count = max(1, round(evaluation.epsilon * len(values)))
    order = level.argsort()
    for chosen, name, dashes in ((order[-count:], "best", (1, 1)), (order[:count], "worst", (5, 2))):
        label = f"{name} {evaluation.epsilon:.0%} of classes"
        axes.plot(where, values[chosen].mean(0), color=INK, linewidth=1.3, linestyle=(0, dashes), label=label, zorder=4)
    axes.set(xlim=(where[0], max(where[-1], where[0] + 1e-6)), ylim=(0, 1.01), ylabel="utility")
    axes.set_xlabel(f"L2 distance, from FAR {evaluation.far[0]:.0%} to FAR {evaluation.far[1]:.0%}")
    axes.legend(loc="lower left", fontsize=8, frameon=True, facecolor="white", framealpha=0.85, edgecolor="none")
    scores = evaluation.scores
    _subtitle(
        figure,
        f"OPIS {scores['opis']:.2e}    {evaluation.epsilon:.0%}-OPIS {scores['epsilon_opis']:.2e}    "
        f"{len(values):,} classes, one line each",
    )
    return figure


def class_rates_figure(
    rates: ClassRates, overall: tuple[float, float], names: Sequence[str], calibrate_far: float, title: str
) -> Figure:
    """Return FAR against FRR of every class at one threshold, the worst ones named.

    Args:
        rates: of classes with a positive pair.
        overall: FAR and FRR over all pairs.
        names: of the classes in `rates`.
        calibrate_far: what the threshold was fitted to.
    """
    far, frr = rates.far.cpu().numpy(), rates.frr.cpu().numpy()
    floor = max(1e-5, 10 ** np.floor(np.log10(max(np.quantile(far, 0.02), 1e-5))))
    figure, axes = _framed(title, 5.6, 4.6)
    axes.scatter(np.maximum(far, floor), frr, 14, color=SECOND, alpha=0.55, edgecolors="none", zorder=3)
    axes.axvline(calibrate_far, color=ACCENT, linewidth=1, label=f"FAR {calibrate_far:.0%}, fitted on calibration")
    axes.plot(max(overall[0], floor), overall[1], "P", color=ACCENT, markeredgecolor="white", markersize=11, zorder=5,
              label="all pairs", linestyle="none")  # fmt: skip
    worst = dict.fromkeys([*frr.argsort()[-4:].tolist(), int(far.argmax())])
    height = np.inf
    for shown in sorted(worst, key=lambda place: -frr[place]):  # names in a column, from the top, none over another
        height = min(frr[shown], height - 0.05)
        axes.annotate(
            short_name(names[shown], 20), (max(far[shown], floor), frr[shown]), xytext=(0.3, height), fontsize=7,
            color=INK, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4, "shrinkA": 2, "shrinkB": 3},
        )  # fmt: skip
    axes.set(xscale="log", xlim=(floor, 1), ylim=(-0.06, 1.04))
    axes.set(
        xlabel=f"false accept rate of the class (below {floor:g} drawn there)", ylabel="false reject rate of the class"
    )
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    _subtitle(
        figure,
        f"FAR {overall[0]:.2%}, FRR {overall[1]:.2%} over all pairs    by class FAR {_range(far)}, FRR {_range(frr)}",
    )
    return figure


def _range(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.1, 0.9))
    return f"{low:.1%} to {high:.1%}"


def _probit(rates: Sequence[float]) -> list[float]:
    return torch.special.ndtri(torch.tensor(list(rates), dtype=torch.float64).clamp(1e-6, 1 - 1e-6)).tolist()


def _framed(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.96, bottom=0.11, top=0.86)
    figure.text(0.02, 0.955, title, fontsize=11.5, va="center")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    return figure, axes


def _subtitle(figure: Figure, text: str) -> None:
    figure.text(0.02, 0.905, text, fontsize=8.5, va="center", color="#444444")
