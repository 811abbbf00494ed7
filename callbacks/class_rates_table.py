"""The table of every class at one threshold."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from ..files import atomic_path
from ..metrics.operating_point import ClassRates
from ..metrics.retrieval_evaluation import RetrievalEvaluation


@dataclass
class ClassRow:
    """A line of the table: rates at the fitted threshold, utility as the mean over the FAR range of OPIS."""

    label: int
    name: str
    images: int
    far: float
    frr: float
    utility: float

    @classmethod
    def of(cls, evaluation: RetrievalEvaluation, rates: ClassRates, names: list[str]) -> list["ClassRow"]:
        """Return the classes with a positive pair, the lowest utility first."""
        utility = evaluation.utility
        level = dict(
            zip(utility.classes.tolist(), utility.mean_over_range(utility.utility).tolist(), strict=True),
        )
        labels, images = torch.unique(evaluation.labels, return_counts=True)
        sizes = dict(zip(labels.tolist(), images.tolist(), strict=True))
        rows = [
            cls(label, name, sizes[label], far, frr, level[label])
            for label, name, far, frr in zip(
                rates.classes.tolist(), names, rates.far.tolist(), rates.frr.tolist(), strict=True
            )
        ]
        return sorted(rows, key=lambda row: row.utility)


def write_class_rates(trainer: Trainer, stage: str, rows: list[ClassRow]) -> Path:
    """Write `<run>/tables/<stage>_class_rates.csv`; for one process to call."""
    path = Path(trainer.default_root_dir) / "tables" / f"{stage}_class_rates.csv"
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ClassRow.__dataclass_fields__)
        for row in rows:
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in asdict(row).values()])
    return path
