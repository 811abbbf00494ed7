"""What a run leaves of its calibration for later runs to be compared with: reduced sums and scores, as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RectifyError
from ..files import atomic_path
from ..metrics.calibration_sums import CalibrationResult
from ..metrics.reliability import Reliability

FORMAT = "calibration 1"
SCORES = ("ece_top_label_l1", "nll", "brier", "error")


@dataclass(frozen=True)
class CalibrationRecord:
    """The calibration of one run on one split, of all processes.

    Attributes:
        stage: `val` or `test`.
        classes: K.
        epoch, step: of the weights.
        count, hits, confidence: the sums per bin, as in `Reliability`.
        scores: the logged ones without their stage, and `error`; NaN where there is none.
        intervals: (low, high), 95 %, of `ece_top_label_l1`, `nll`, `brier` and `error`.
    """

    stage: str
    classes: int
    epoch: int
    step: int
    count: list[int]
    hits: list[int]
    confidence: list[float]
    scores: dict[str, float]
    intervals: dict[str, list[float]]

    @classmethod
    def of(cls, result: CalibrationResult, classes: int, stage: str, epoch: int, step: int) -> CalibrationRecord:
        """Take what `CalibrationSums.compute()` gave."""
        sums = result.reliability
        scores = {name: value.item() for name, value in result.scores.items()}
        error = 1 - float(sums.hits.sum()) / max(1, int(sums.samples))
        intervals = {name: ends.tolist() for name, ends in result.intervals.items()}
        parts = (sums.count.tolist(), sums.hits.tolist(), sums.confidence.tolist())
        return cls(stage, classes, epoch, step, *parts, scores | {"error": error}, intervals)

    @property
    def bins(self) -> int:
        return len(self.count)

    @property
    def samples(self) -> int:
        return sum(self.count)

    def reliability(self) -> Reliability:
        """The sums as tensors, for every figure that is computed of them."""
        sums = torch.tensor(self.confidence, dtype=torch.float64)
        return Reliability(torch.tensor(self.count), torch.tensor(self.hits), sums)

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; for one process to call.

        Raises:
            RectifyError: the file cannot be written.
        """
        content = {"format": FORMAT, **asdict(self)}
        content["scores"] = {name: _plain(value) for name, value in self.scores.items()}
        content["intervals"] = {name: [_plain(end) for end in ends] for name, ends in self.intervals.items()}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def record_name(stage: str) -> str:
    """The file of a stage in a run folder: `calibration_test.json`."""
    return f"calibration_{stage}.json"


def read_record(path: Path, who: str) -> CalibrationRecord:
    """Read what `CalibrationRecord.write` wrote.

    Args:
        path: the file.
        who: begins the error, such as `CalibrationReport: compare_with.mixup`.

    Raises:
        RectifyError: it does not exist, or holds something else.
    """
    if not path.is_file():
        raise RectifyError(f"{who}: {path} does not exist; a run with CalibrationReport writes it when it ends.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        content["scores"] = {name: _number(value) for name, value in content["scores"].items()}
        content["intervals"] = {name: [_number(end) for end in ends] for name, ends in content["intervals"].items()}
        record = CalibrationRecord(**content)
        record.reliability()
        whole = len(record.count) == len(record.hits) == len(record.confidence) >= 2
        if not whole or not set(SCORES) <= set(record.scores) & set(record.intervals):
            raise ValueError("parts are missing")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RectifyError(
            f"{who}: {path} is no calibration record ({error}); give a {record_name('test')} or its run folder."
        ) from error
    return record


def _plain(value: float) -> float | None:
    """NaN and infinity are no JSON."""
    return value if math.isfinite(value) else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
