"""In words: under-forgot, over-forgot, or within the retrained models' spread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .intervals import prediction_half_width

if TYPE_CHECKING:
    from .report import ModelFigures

FORGETTING = ("UA", "MIA_confidence")
UTILITY = ("RA", "TA")


def paired_half_width(decision: Tensor, other: Tensor) -> float:
    """Return the half-width, in percentage points, in which two equally good models differ in 95 % of cases.

    It comes from the samples on which the two disagree (McNemar 1947). It is noise of single samples, not of the
    training seed: only several retrained models show that.
    """
    count = len(decision)
    up, down = int((decision & ~other).sum()), int((other & ~decision).sum())
    return 100 * 1.96 * math.sqrt(max(up + down - (up - down) ** 2 / count, 0.0)) / count


def retrain_spread(key: str, unlearned: ModelFigures, references: list[ModelFigures]) -> float:
    """Return how far, in percentage points, one more retrained model may lie from the retrained ones.

    With several references it is the 95 % prediction interval of one more run, with a single one `paired_half_width`;
    it is never less than one sample.
    """
    sample = 100 / len(unlearned.decisions[key])
    if len(references) == 1:
        return max(sample, paired_half_width(unlearned.decisions[key], references[0].decisions[key]))
    return max(sample, prediction_half_width([one.scores[key] for one in references]))


def judge_forgetting(unlearned: ModelFigures, references: list[ModelFigures]) -> dict[str, Any]:
    """Return `forgetting` (one word), `verdict` (sentences) and `spread` (percentage points by score)."""
    if not references:
        return {"forgetting": "unknown", "verdict": _without_retrain(unlearned), "spread": None}
    widths = {key: retrain_spread(key, unlearned, references) for key in (*FORGETTING, *UTILITY)}
    means = {key: math.fsum(one.scores[key] for one in references) / len(references) for key in widths}
    sides = {}
    for key, width in widths.items():
        distance = unlearned.scores[key] - means[key]
        sides[key] = 0 if abs(distance) <= width * (1 + 1e-9) else int(math.copysign(1, distance))
    forgetting = {sides[key] for key in FORGETTING} - {0}
    word = "within spread" if not forgetting else "mixed" if len(forgetting) > 1 else _WORDS[forgetting.pop()]

    def figure(key: str) -> str:
        return f"{key} {unlearned.scores[key]:.2f} against {means[key]:.2f} ± {widths[key]:.2f}"

    sentences = [_HEADLINES[word] + " (" + ", ".join(map(figure, FORGETTING)) + ")."]
    worse = [key for key in UTILITY if sides[key] < 0]
    if worse:
        sentences.append(f"It costs accuracy ({', '.join(map(figure, worse))}).")
    better = [key for key in UTILITY if sides[key] > 0]
    if better:
        sentences.append(f"It is more accurate than retraining is ({', '.join(map(figure, better))}).")
    if len(references) == 1:
        sentences.append(
            "± is the noise of single samples: with one retrained model the spread between training seeds is not known."
        )
    return {"forgetting": word, "verdict": " ".join(sentences), "spread": widths}


_WORDS = {-1: "under-forgot", 1: "over-forgot"}
_HEADLINES = {
    "within spread": "Within the retrained model's spread: the forget set is treated as one never seen",
    "under-forgot": "Under-forgot: the model still knows more of the forget set than a retrained one",
    "over-forgot": "Over-forgot: the model does worse on the forget set than one that has never seen it, "
    "which itself tells what was forgotten",
    "mixed": "Mixed: one score says under-forgot and the other over-forgot",
}


def _without_retrain(unlearned: ModelFigures) -> str:
    scores = unlearned.scores
    return (
        f"No retrained model: whether UA {scores['UA']:.2f} and MIA_confidence {scores['MIA_confidence']:.2f} are too "
        "low or too high cannot be said, nor Avg. Gap nor ToW, because each is a distance from a model that has "
        f"never seen the forget set. What can be said: RA is {scores['RA']:.2f} and TA is {scores['TA']:.2f}. "
        "Ask for a retrained model to get a verdict."
    )
