"""The report of an unlearning run: what becomes `unlearning.json`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics.probabilities import Forecast
from ..metrics.reliability import Reliability
from .distances import average_gap, tug_of_war
from .intervals import student_interval
from .membership import decision_shares, membership_decisions
from .outputs import Outputs, Split, checked_outputs, forgotten_classes, hits, without_classes
from .relative_membership import rmia_auc
from .verdict import judge_forgetting

BINS = 15


class ModelFigures:
    """The scores of one model, with the sample-wise decisions behind them.

    Attributes:
        scores: per cent by name: `UA` = 100 - accuracy on the forget set, `RA` accuracy on the retain set, `TA` on the
            test set (without the classes that are forgotten whole), `UA_test` = 100 - accuracy on the test samples of
            those classes if there are such, `VA` as TA on the validation set if there is one, and `MIA_<attack>`.
        calibration: `ece` and `signed_gap` in per cent and `nll` in nats, by split.
        decisions: (n,) bool by score, for UA and each MIA on the forget set, RA on the retain set, TA on the test set.

    Args:
        outputs: of one model, checked by `checked_outputs`.
        dropped: classes that are left out of TA and VA.
        seed, limit: of the confidence attack, see `membership_decisions`.
    """

    def __init__(self, outputs: Outputs, dropped: list[int], seed: int = 0, limit: int = 2000):
        forget, retain = outputs["forget"], outputs["retain"]
        test = without_classes(outputs["test"], dropped)
        attacks = membership_decisions(forget, retain, test, seed, limit)
        self.decisions = {"UA": ~hits(forget), "RA": hits(retain), "TA": hits(test)}
        if "val" in outputs:
            self.decisions["VA"] = hits(without_classes(outputs["val"], dropped))
        gone = set(outputs["test"]["label"].tolist()) & set(dropped)
        if gone:
            kept = set(outputs["test"]["label"].tolist()) - gone
            self.decisions["UA_test"] = ~hits(without_classes(outputs["test"], sorted(kept)))
        self.scores = {name: 100 * float(kind.double().mean()) for name, kind in self.decisions.items() if len(kind)}
        self.scores |= decision_shares(attacks)
        self.decisions |= {f"MIA_{name}": passes for name, passes in attacks.items()}
        splits = {**outputs, "test": test}
        self.calibration = {name: split_calibration(split) for name, split in splits.items() if len(split["label"])}


def split_calibration(split: Split) -> dict[str, float]:
    """Return the top-label `ece` (15 equal bins, L1) and the `signed_gap` in per cent, and the `nll` in nats."""
    forecast = Forecast.of(split["logits"], split["label"])
    reliability = Reliability.of(forecast, BINS)
    return {
        "ece": 100 * float(reliability.calibration_error("l1")),
        "signed_gap": 100 * float(reliability.signed_gap()),
        "nll": float(forecast.negative_log_likelihood().double().mean()),
    }


def unlearning_report(
    original: Outputs,
    unlearned: Outputs,
    retrained: Outputs | Sequence[Outputs] | None = None,
    *,
    cost: Mapping[str, float] | None = None,
    retrain_cost: Mapping[str, float] | None = None,
    off_mask_drift: float | None = None,
    sections: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare an unlearned model with the original and, if given, with one or more retrained without the forget set.

    The outputs of each model are tensors gathered over all ranks and de-duplicated, so the report is the same for any
    number of processes. One pass of each model over the splits serves every figure.

    Returns a dictionary that JSON can hold. On top stand the scores of the unlearned model (`UA`, `RA`, `TA`,
    `MIA_confidence`, …, per cent, see `ModelFigures`), `AvgGap` (percentage points) and `ToW` against the retrained
    models, `RTE` (`cost` as given), `off_mask_drift`, the `verdict` in words and `forgetting`, the same in one
    word. Below: `original` and `retrained` scores (`mean`, `half_interval` of the 95 % Student interval over several
    retrained models), `gap` (unlearned - mean retrained), `calibration` of each model and `calibration_shift`
    (unlearned - original), `RMIA_AUC` by model (see `rmia_auc`; per cent, 50 is a guess), `samples` of each split,
    `forgotten_classes`. What a missing retrained model makes impossible is None and said in the verdict.

    Args:
        original, unlearned: `{"forget" | "retain" | "test" | "val": {"logits", "label", "index"}}`, `val` if there is
            one.
        retrained: the same of a model retrained without the forget set, or of several of them.
        cost: of unlearning, the mask included: `seconds`, `forget_gradients`, `retain_gradients` (samples).
        retrain_cost: the same of retraining.
        off_mask_drift: largest change of a weight off the mask; must be 0 for an exact freeze.
        sections: further findings to keep under their own names (`relearning`, `saliency`, `probe`, …).
        seed: of the draws of the membership attack.

    Raises:
        RectifyError: a split is missing, empty, of wrong shape, holds a sample twice, or the models were evaluated on
            different samples.
    """
    now = checked_outputs(unlearned, "unlearned")
    then = checked_outputs(original, "original", now)
    several = [retrained] if isinstance(retrained, Mapping) else list(retrained or ())
    oracles = [checked_outputs(one, f"retrained {i}", now) for i, one in enumerate(several)]
    dropped = forgotten_classes(now["forget"]["label"], now["retain"]["label"])
    figures, before, *references = (ModelFigures(model, dropped, seed) for model in (now, then, *oracles))

    gaps = [average_gap(figures.scores, one.scores) for one in references]
    tows = [tug_of_war(figures.scores, one.scores) for one in references]
    several_scores = {key: [one.scores[key] for one in references] for key in figures.scores}
    judged = judge_forgetting(figures, references)
    report: dict[str, Any] = {
        **figures.scores,
        "AvgGap": _mean(gaps),
        "ToW": _mean(tows),
        "RTE": dict(cost) if cost else None,
        "off_mask_drift": off_mask_drift,
        **judged,
        "original": before.scores,
        "retrained": {key: _summary(values) for key, values in several_scores.items()} if references else None,
        "retrained_models": len(references),
        "gap": {key: figures.scores[key] - math.fsum(values) / len(values) for key, values in several_scores.items()}
        if references
        else None,
        "retrained_RTE": dict(retrain_cost) if retrain_cost else None,
        "calibration": {"original": before.calibration, "unlearned": figures.calibration},
        "calibration_shift": {
            name: {key: value - before.calibration[name][key] for key, value in values.items()}
            for name, values in figures.calibration.items()
            if name in before.calibration
        },
        "samples": {name: len(split["label"]) for name, split in now.items()},
        "forgotten_classes": dropped,
    }
    if references:
        report["calibration"]["retrained"] = references[0].calibration
        report["RMIA_AUC"] = {"original": rmia_auc(then, oracles), "unlearned": rmia_auc(now, oracles)}
    if len(references) > 1:
        report["AvgGap_interval"], report["ToW_interval"] = student_interval(gaps), student_interval(tows)
        report["RMIA_AUC"]["retrained"] = rmia_auc(oracles[0], oracles[1:])
    return {**report, **(sections or {})}


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _summary(values: list[float]) -> dict[str, float | None]:
    if len(values) < 2:
        return {"mean": _mean(values), "half_interval": None}
    return dict(student_interval(values))
