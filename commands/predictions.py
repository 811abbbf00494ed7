"""Predictions as a table: one row a sample, whatever the number of processes."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..collectives import gather_rows
from ..files import atomic_path


def write_predictions(
    path: Path, batches: Iterable[dict[str, Tensor]], class_names: list[str], keys: np.ndarray | None, write: bool
) -> int:
    """Write `key, index, prediction, <one probability a class>`, ordered by index; return the number of rows.

    Args:
        batches: of this process: `probability` (n, K) and `index` (n,). Samples that came twice are written once.
        class_names: K names.
        keys: public name of each sample by index, if the data have them.
        write: whether this process writes; all must call this.
    """
    batches = list(batches)
    index = torch.cat(gather_rows(torch.cat([batch["index"] for batch in batches])))
    probability = torch.cat(gather_rows(torch.cat([batch["probability"] for batch in batches])))
    order, first = np.unique(index.cpu().numpy(), return_index=True)
    if write:
        rows = probability.cpu().numpy()[first]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["key", "index", "prediction", *class_names])
            for sample, row in zip(order, rows, strict=True):
                key = keys[sample] if keys is not None else sample
                table.writerow([key, sample, class_names[row.argmax()], *(f"{value:.6g}" for value in row)])
    return len(order)
