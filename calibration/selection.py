"""Fit several maps, choose one by a proper score on held-out folds, and say what each does on the test split."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import RectifyError, did_you_mean
from ..metrics import BrierScore, CalibrationSums, NegativeLogLikelihood
from ..randomness import keyed_generator
from .affine_scaling import DirichletCalibration, MatrixScaling, VectorScaling
from .beta_calibration import BetaCalibration
from .cached_logits import CachedLogits
from .calibration_map import CalibrationMap
from .ensemble_temperature import EnsembleTemperature
from .h_calibration import HCalibration
from .histogram_binning import HistogramBinning
from .isotonic import IsotonicCalibration
from .spline_calibration import SplineCalibration
from .temperature_scaling import TemperatureScaling
from .whole_set import score_whole

MAPS: dict[str, Callable[[int], CalibrationMap]] = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "matrix": MatrixScaling,
    "dirichlet": DirichletCalibration,
    "beta": BetaCalibration,
    "isotonic": IsotonicCalibration,
    "histogram": HistogramBinning,
    "ensemble_temperature": EnsembleTemperature,
    "spline": SplineCalibration,
    "h_calibration": HCalibration,
}
Score = Literal["nll", "brier"]


@dataclass
class Choice:
    """A map chosen among several.

    Attributes:
        name: of the chosen map in `MAPS`, or `none` if no map had a better held-out score than the logits as they are.
        calibration: the map, fitted on all calibration samples; None for `none`.
        fitted: all maps by name, fitted on all calibration samples.
        held_out: proper score by name, mean over the folds, `none` among them.
    """

    name: str
    calibration: CalibrationMap | None
    fitted: dict[str, CalibrationMap] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)


def choose_map(
    logits: Tensor,
    label: Tensor,
    maps: list[str] | None = None,
    score: Score = "nll",
    folds: int = 3,
    make: dict[str, Callable[[int], CalibrationMap]] | None = None,
) -> Choice:
    """Fit maps on the calibration split and choose by cross-validation inside it.

    A score on the samples a map was fitted on would favour the map with most parameters. The folds are drawn by a
    fixed key, so that every rank, and every repetition, chooses alike.

    Args:
        logits: (n, K) of the validation split.
        label: (n,).
        maps: names in `MAPS`; all by default.
        score: `nll` or `brier`, both proper.
        folds: parts that are held out in turn.
        make: constructors (classes -> map) instead of `MAPS`.

    Raises:
        RectifyError: an unknown map or score, fewer samples than folds, or what `CachedLogits.of` refuses.
    """
    known = make or MAPS
    names = chosen_names(maps, score, folds, known)
    data = CachedLogits.of(logits, label, "calibrate")
    if folds > len(data.label):
        raise RectifyError(f"folds is {folds} for {len(data.label)} samples; give at most one a sample.")
    fold = torch.randperm(len(label), generator=keyed_generator("folds", len(label))).to(label.device) % folds
    held_out = {"none": _proper(logits, data.label, score)}
    for name in names:
        parts = []
        for part in range(folds):
            out = fold == part
            part_map = known[name](data.logits.shape[1]).fit(data.logits[~out], data.label[~out])
            parts.append(_proper(part_map(logits[out]), data.label[out], score) * int(out.sum()))
        held_out[name] = sum(parts) / len(data.label)
    fitted = {name: known[name](data.logits.shape[1]).fit(data.logits, data.label) for name in names}
    best = min(held_out, key=held_out.__getitem__)
    return Choice(best, fitted.get(best), fitted, held_out)


def chosen_names(maps: list[str] | None, score: str, folds: int, known: Collection[str] = tuple(MAPS)) -> list[str]:
    """Return the names of the maps to fit, all known ones by default.

    Raises:
        RectifyError: an unknown map or score, no map at all, or fewer than 2 folds.
    """
    names = list(known) if maps is None else list(maps)
    for name in names:
        if name not in known:
            raise RectifyError(f"maps names {name!r}.{did_you_mean(name, known)}")
    if not names:
        raise RectifyError(f"maps is empty; choose among {', '.join(known)}.")
    if score not in ("nll", "brier"):
        raise RectifyError(f"score is {score!r}; choose nll or brier, which are proper.")
    if folds < 2:
        raise RectifyError(f"folds is {folds}; give 2 or more, so that a part is fitted on and another held out.")
    return names


def compare_maps(fitted: dict[str, CalibrationMap], logits: Tensor, label: Tensor) -> dict[str, dict[str, Any]]:
    """Return every calibration score of the logits as they are (`none`) and under each map, and whether NLL fell.

    A map is applied in the precision of `logits`, as it is in a network that gives them.
    """
    CachedLogits.of(logits, label, "calibrate")
    rows = {"none": calibration_scores(logits, label)}
    for name, calibration in fitted.items():
        rows[name] = calibration_scores(calibration(logits), label)
        rows[name]["nll_lower_than_before"] = rows[name]["nll"] < rows["none"]["nll"]
    return rows


def calibration_scores(logits: Tensor, label: Tensor) -> dict[str, Any]:
    """Return every score of `CalibrationSums` and the accuracy, of logits (n, K) that this process holds whole."""
    result = score_whole(CalibrationSums(logits.shape[1]), logits, label)
    scores: dict[str, Any] = {key: float(value) for key, value in result.scores.items()}
    scores["accuracy"] = float(logits.argmax(1).eq(label).double().mean())
    return scores


def _proper(logits: Tensor, label: Tensor, score: Score) -> float:
    return float(score_whole(NegativeLogLikelihood() if score == "nll" else BrierScore(), logits, label))
