"""The table of example scores, as CSV or Parquet."""

import csv
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ..errors import RectifyError
from ..files import atomic_path


@dataclass(frozen=True)
class ExampleRow:
    """One training sample; key and label are None where the data module has no index.

    Attributes:
        forgotten: infinite if the sample was never right.
    """

    index: int
    key: str | None
    label: int | None
    el2n: float
    grand: float
    forgotten: float
    times: int


COLUMNS = tuple(field.name for field in fields(ExampleRow))


def check_table(file: str) -> str:
    """Return the name of a table in the run folder.

    Raises:
        RectifyError: it is no plain name that ends in .csv or .parquet, or pyarrow, which writes Parquet, is missing.
    """
    if Path(file).name != file or Path(file).suffix not in (".csv", ".parquet"):
        raise RectifyError(f"ExampleScores: file is {file!r}; give a plain name that ends in .csv or .parquet.")
    if Path(file).suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise RectifyError(
                f"ExampleScores: file is {file}, and Parquet needs pyarrow; install lightning-rectify[parquet], or "
                "give a name that ends in .csv."
            ) from error
    return file


def write_table(path: Path, rows: Iterable[ExampleRow]) -> None:
    """Write the rows in the format of the path's ending; for one process to call.

    CSV has 6 digits and empty cells for None, Parquet full precision, nulls, and types of its own: keys stay text.

    Raises:
        RectifyError: the file cannot be written.
    """
    if path.suffix == ".csv":
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([_cell(value) for value in astuple(row)] for row in rows)
        return
    import pyarrow
    import pyarrow.parquet

    types = (pyarrow.int64(), pyarrow.string(), pyarrow.int64(), *[pyarrow.float64()] * 3, pyarrow.int64())
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(COLUMNS)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(COLUMNS, arrays, strict=True))), temporary)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else f"{value:.6g}"
    return value
