"""Draw an unlearning report: confidence on the forget set, and the scores of the three models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..callbacks.figures import new_figure
from ..files import atomic_path
from ..unlearning.member_scores import membership_scores
from ..unlearning.outputs import Outputs, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"original": "#8d99ae", "unlearned": "#c8553d", "retrained": "#2a6f97"}
BARS = ("UA", "RA", "TA", "MIA_confidence", "MIA_loss", "MIA_modified_entropy")
BINS = np.linspace(0, 1, 21)


def draw_unlearning(
    report: Mapping[str, Any], original: Outputs, unlearned: Outputs, retrained: Outputs | None = None
) -> Figure:
    """Return the figure of an `unlearning_report`.

    Left, the share of forget samples by the probability of their label, on a logarithmic scale. Right, the scores in
    per cent; whiskers on the retrained model's bars are how far one more retrained model may lie (`report["spread"]`).

    Args:
        original, unlearned, retrained: the outputs the report was made of; of several retrained models the first.
    """
    models = {"original": original, "unlearned": unlearned} | ({"retrained": retrained} if retrained else {})
    figure = new_figure(10.4, 4.3)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.55))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.13, top=0.78, wspace=0.17)
    for name, model in models.items():
        confidence = _confidence(model["forget"])
        share = np.histogram(confidence, BINS)[0] / len(confidence)
        left.stairs(100 * share, BINS, color=COLOURS[name], linewidth=1.8, label=name)
    left.set(xlim=(0, 1), xlabel="probability of the label", ylabel="% of the forget set")
    left.set_yscale("symlog", linthresh=1)
    left.set_ylim(0, 130)
    left.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    left.set_title(f"Forget set, {len(confidence):,} samples", fontsize=9.5, loc="left")

    keys = [key for key in BARS if key in report]
    width = 0.8 / len(models)
    for place, name in enumerate(models):
        values = [_score(report, name, key) for key in keys]
        at = np.arange(len(keys)) + (place - (len(models) - 1) / 2) * width
        right.bar(at, values, width * 0.92, color=COLOURS[name], label=name)
        half = np.zeros(len(keys))
        if name == "retrained" and report["spread"]:
            half = np.array([report["spread"].get(key, np.nan) for key in keys])
            low = np.minimum(half, values)  # a share cannot fall below 0
            high = np.minimum(half, 100 - np.array(values))
            right.errorbar(at, values, [low, high], fmt="none", ecolor="#222222", elinewidth=0.9, capsize=2.5)
        for x, value, more in zip(at, values, np.nan_to_num(half), strict=True):
            top = min(value + more, 100)
            right.text(
                x, top + 1.5, f"{value:.1f}".removesuffix(".0"), ha="center", va="bottom", fontsize=6.8, color="#333333"
            )
    right.set_xticks(np.arange(len(keys)), [key.replace("MIA_", "MIA\n").replace("_", " ") for key in keys])
    right.set(ylim=(0, 112), ylabel="per cent")
    right.set_yticks(range(0, 101, 20))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5)
    marks, names = right.get_legend_handles_labels()
    figure.legend(marks, names, loc="upper right", ncols=3, fontsize=8.5, frameon=False, bbox_to_anchor=(0.99, 0.9))
    figure.text(0.02, 0.95, f"Unlearning: {_HEADS[report['forgetting']]}", fontsize=11.5, va="center")
    figure.text(0.02, 0.885, _numbers(report), fontsize=8.5, va="center", color="#444444")
    return figure


def write_unlearning_figure(path: Path, *args: Any, **kwargs: Any) -> Path:
    """Write `draw_unlearning` of the same arguments as a PNG; call it on the global rank 0 only."""
    figure = draw_unlearning(*args, **kwargs)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path


_HEADS = {
    "under-forgot": "under-forgot",
    "over-forgot": "over-forgot",
    "within spread": "within the retrained model's spread",
    "mixed": "one score says under-forgot, another over-forgot",
    "unknown": "no retrained model to compare with",
}


def _confidence(split: Split) -> np.ndarray:
    return membership_scores(split["logits"].cpu(), split["label"].cpu())["confidence"].numpy()


def _score(report: Mapping[str, Any], name: str, key: str) -> float:
    if name == "unlearned":
        return report[key]
    return report["original"][key] if name == "original" else report["retrained"][key]["mean"]


def _numbers(report: Mapping[str, Any]) -> str:
    if report["AvgGap"] is None:
        return "Avg. Gap and ToW need a retrained model"
    count = report["retrained_models"]
    interval = report.get("AvgGap_interval")
    more = f" ± {interval['half_interval']:.2f}" if interval else ""
    noise = "spread of retraining" if count > 1 else "noise of single samples"
    models = f"{count} retrained models" if count > 1 else "one retrained model"
    return f"Avg. Gap {report['AvgGap']:.2f}{more}    ToW {report['ToW']:.4f}    {models}; whiskers: 95 % {noise}"
