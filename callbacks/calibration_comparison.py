"""Earlier runs beside which the calibration of this one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RectifyError
from .calibration_record import CalibrationRecord, read_record, record_name
from .comparison_figure import COLOURS, draw_calibration_comparison
from .figures import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHO = "CalibrationReport"
LONGEST = 28  # characters of a name that have room in the figure


class CalibrationComparison:
    """Records of earlier runs by stage, read and checked before anything is trained.

    Args:
        runs: name -> a run folder, or a `calibration_<stage>.json` of one.
        name: of the run they are compared with, None if there is none.
        stages: wanted; a file settles its own, and then nothing else is compared.
        bins: they must have; None takes those of the first.

    Raises:
        RectifyError: too many runs; names that look alike; a file that is missing or something else, of another stage,
            or with other bins or classes than the others.
    """

    def __init__(self, runs: Mapping[str, str | Path], name: str | None, stages: tuple[str, ...], bins: int | None):
        self.name = None if name is None else short_name(name, LONGEST)
        self.records: dict[str, dict[str, CalibrationRecord]] = {}
        self._check_names(runs)
        fixed: dict[str, CalibrationRecord] = {}
        for run, place in runs.items():
            if Path(place).expanduser().is_file():
                fixed[run] = read_record(Path(place).expanduser(), _of(run))
                first = next(iter(fixed))
                if fixed[run].stage != fixed[first].stage:
                    raise RectifyError(
                        f"{_of(run)} is of stage {fixed[run].stage} and {first} of {fixed[first].stage}; "
                        "give files of one stage, or the run folders."
                    )
                if fixed[run].stage not in stages:
                    raise RectifyError(
                        f"{_of(run)} is of stage {fixed[run].stage}, but compared is {' and '.join(stages)}; "
                        f"give the file of that stage, or add {fixed[run].stage} to stages."
                    )
        for stage in {each.stage for each in fixed.values()} or stages:
            found = {
                run: fixed.get(run) or read_record(_file(run, Path(place).expanduser(), stage), _of(run))
                for run, place in runs.items()
            }
            for run, record in found.items():
                self._check(run, record, stage, bins, next(iter(found.values())).classes)
                bins = record.bins if bins is None else bins
            self.records[stage] = {short_name(run, LONGEST): record for run, record in found.items()}

    def _check_names(self, runs: Mapping[str, str | Path]) -> None:
        most = len(COLOURS) - (self.name is not None)
        if len(runs) > most:
            raise RectifyError(f"{WHO}: compare_with names {len(runs)} runs; one figure takes at most {most}.")
        drawn: dict[str, str] = {}
        for run in map(str, runs):
            if not run.strip():
                raise RectifyError(f"{WHO}: compare_with has a run without a name; give it one.")
            short = short_name(run, LONGEST)
            if short == self.name:
                raise RectifyError(f"{_of(run)} has the name of this run; rename it, or set name of this run.")
            if short in drawn:
                raise RectifyError(f"{_of(run)} and {drawn[short]} look alike in a figure; give shorter names.")
            drawn[short] = run

    def _check(self, run: str, record: CalibrationRecord, stage: str, bins: int | None, classes: int) -> None:
        if record.stage != stage:
            raise RectifyError(f"{_of(run)}: its {record_name(stage)} is of stage {record.stage}; run that test again.")
        if bins is not None and record.bins != bins:
            raise RectifyError(f"{_of(run)} has {record.bins} bins, not {bins}; give one number of bins to all runs.")
        if record.classes != classes:
            raise RectifyError(
                f"{_of(run)} has {record.classes} classes and the first run {classes}; compare runs on the same data."
            )

    def check_classes(self, classes: int) -> None:
        """Raise RectifyError unless the compared runs have as many classes."""
        for records in self.records.values():
            for run, record in records.items():
                if record.classes != classes:
                    raise RectifyError(
                        f"{_of(run)} has {record.classes} classes and this network {classes}; "
                        "compare runs on the same data."
                    )

    def draw(self, record: CalibrationRecord) -> Figure | None:
        """Return the figure of the earlier runs and this one, None if this stage is not compared."""
        earlier = self.records.get(record.stage)
        return draw_calibration_comparison({**earlier, str(self.name): record}) if earlier else None


def compare_calibration(runs: Mapping[str, str | Path], stage: str = "test") -> Figure:
    """Draw the calibration of several finished runs; `.savefig(path)` of the result writes it.

    Args:
        runs: name -> the folder of a run with `CalibrationReport`, or its `calibration_<stage>.json`; drawn in this
            order.
        stage: `val` or `test`.

    Raises:
        RectifyError: as in `CalibrationComparison`.
    """
    if not runs:
        raise RectifyError("compare_calibration: no run is given; give at least one.")
    return draw_calibration_comparison(CalibrationComparison(runs, None, (stage,), None).records[stage])


def _file(run: str, folder: Path, stage: str) -> Path:
    if not folder.is_dir():
        raise RectifyError(f"{_of(run)}: {folder} does not exist; give a run folder or a {record_name(stage)}.")
    path = folder / record_name(stage)
    if not path.is_file():
        other = next((name for name in map(record_name, ("val", "test")) if (folder / name).is_file()), None)
        remedy = (
            f"give its {other}, or choose other stages" if other else "give a run with CalibrationReport that ended"
        )
        raise RectifyError(f"{_of(run)}: {folder} has no {path.name}; {remedy}.")
    return path


def _of(run: str) -> str:
    return f"{WHO}: compare_with.{run}"
