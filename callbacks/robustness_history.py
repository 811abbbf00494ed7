"""What becomes of robustness as training goes on: the best, the last, and the phases of the energy."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from ..files import atomic_path

Phase = Literal["settling", "stable", "falling"]
WINDOW = 5  # validations a new value is compared with
LOUD, FLOOR, LEAST = 4.0, 0.05, 0.02  # times the spread; the spread is at least 5 % of the level and 0.02 nats


@dataclass(frozen=True)
class RobustnessRow:
    """One validation: accuracies in [0, 1] and the mean ΔE = E(x) - E(x_adv), in nats."""

    epoch: int
    step: int
    clean: float
    robust: float
    energy_gap: float


class RobustnessHistory:
    """The validations of a run, in order; kept in the checkpoint, so that the best survives a resume.

    A checkpoint ends where it was saved; the file that a run keeps beside it ends where the run did.

    Attributes:
        whole: the last row is the run's last validation; false for what a checkpoint alone says.
    """

    def __init__(self) -> None:
        self.rows: list[RobustnessRow] = []
        self.whole = True

    def add(self, row: RobustnessRow) -> None:
        """Append a validation; one of the same step, or of later ones a resume threw away, is replaced."""
        self.rows = [earlier for earlier in self.rows if earlier.step < row.step] + [row]

    @property
    def best(self) -> RobustnessRow | None:
        """The first validation with the highest robust accuracy."""
        return max(self.rows, key=lambda row: row.robust, default=None)

    @property
    def last(self) -> RobustnessRow | None:
        return self.rows[-1] if self.rows else None

    @property
    def gap(self) -> float:
        """Best minus last robust accuracy, 0 or more: the robust-overfitting gap (Rice et al. 2020)."""
        best, last = self.best, self.last
        return best.robust - last.robust if best and last else 0.0

    def phases(self) -> list[Phase]:
        """The phase of each validation by its ΔE."""
        return energy_phases([row.energy_gap for row in self.rows])

    def write(self, path: Path) -> None:
        """Write the rows as JSON; for one process to call."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.state_dict(), indent=1) + "\n", encoding="utf-8")

    def reaching(self, path: Path) -> "RobustnessHistory":
        """Return the history of the file if it begins with these rows, else this one."""
        if not self.rows or not path.is_file():
            return self
        told = RobustnessHistory()
        try:
            told.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return self  # a file that somebody edited; the card says less then
        return told if told.rows[: len(self.rows)] == self.rows else self

    def state_dict(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self.rows = [RobustnessRow(**row) for row in state]


def energy_phases(gaps: Sequence[float]) -> list[Phase]:
    """Name the phase of each mean ΔE: `settling` at first, then `stable`, and `falling` where it drops out of line.

    Published are the three phases, not how to tell them apart (arXiv 2407.06315); the rule is ours. A value is compared
    with the median of the five before it that were not falling; their spread is the median distance from it, at least
    5 % of it and 0.02 nats. It is stable within four spreads, falling below, and settling above or with fewer than
    three to compare with.
    """
    phases: list[Phase] = []
    kept: list[float] = []
    for gap in gaps:
        recent = kept[-WINDOW:]
        if len(recent) < 3:
            phase: Phase = "settling"
        else:
            level = median(recent)
            spread = max(median(abs(value - level) for value in recent), FLOOR * abs(level), LEAST)
            away = (gap - level) / spread
            phase = "falling" if away < -LOUD else "settling" if away > LOUD else "stable"
        if phase != "falling":
            kept.append(gap)
        phases.append(phase)
    return phases
