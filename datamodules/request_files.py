"""Files of sample keys or indices, as people write them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RectifyError

KEY_COLUMNS = ("key", "__key__")


def read_keys(path: str) -> list[str]:
    """Return the sample keys in a file.

    CSV: the column `key` (or `__key__`), or the only column, with or without a header line of that name. JSON: a list
    of keys, a list of objects with `key`, or an object with a list `keys`. Parquet: the column `key`.

    Raises:
        RectifyError: the file is missing, empty or written otherwise.
    """
    file = _existing(path)
    suffix = file.suffix.lower()
    try:
        if suffix == ".json":
            keys = _from_json(json.loads(file.read_text(encoding="utf-8-sig")), path)
        elif suffix == ".parquet":
            keys = _from_parquet(file, path)
        else:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                keys = _from_rows([row for row in csv.reader(lines) if any(cell.strip() for cell in row)], path)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise RectifyError(f"data.forget {path} cannot be read ({error}); write it as CSV or JSON.") from error
    if not keys:
        raise RectifyError(f"data.forget {path} holds no key; an empty request forgets nothing.")
    return keys


def read_indices(path: str, samples: int) -> np.ndarray:
    """Return the sample indices in a file: text (separated by white space or commas), a JSON list, or `.npy`.

    Raises:
        RectifyError: the file is missing, empty, holds something else, or an index that no sample has.
    """
    file = _existing(path)
    try:
        if file.suffix.lower() == ".npy":
            values: Any = np.load(file, allow_pickle=False).ravel()
        elif file.suffix.lower() == ".json":
            values = json.loads(file.read_text(encoding="utf-8"))
        else:
            values = [int(word) for word in file.read_text(encoding="utf-8").replace(",", " ").split()]
        found = np.asarray(values)
    except (ValueError, EOFError, OSError) as error:
        raise RectifyError(f"data.forget index:{path} is no list of numbers ({error}).") from error
    if not found.size:
        raise RectifyError(f"data.forget index:{path} holds no index; an empty request forgets nothing.")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise RectifyError(f"data.forget index:{path} is no list of integers; give sample indices.")
    outside = found[(found < 0) | (found >= samples)]
    if len(outside):
        raise RectifyError(
            f"data.forget index:{path}: {len(outside)} indices are unknown ({short_list(outside)}); "
            f"the data have samples 0 to {samples - 1}."
        )
    return found.astype(np.int64)


def short_list(names: Sequence[Any] | np.ndarray, count: int = 3) -> str:
    """The first few of many names."""
    listed = ", ".join(str(name)[:40] for name in names[:count])
    return f"{listed}, …" if len(names) > count else listed


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise RectifyError(f"data.forget: {path or 'the file of index:'} does not exist; give the file of a request.")
    return file


def _from_rows(rows: list[list[str]], path: str) -> list[str]:
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    named = next((name for name in KEY_COLUMNS if name in header), None)
    if named is None and max(map(len, rows)) > 1:
        raise RectifyError(
            f"data.forget {path} has several columns and none is named key; name the column of sample keys key."
        )
    column = header.index(named) if named else 0
    return [row[column].strip() for row in rows[named is not None :] if len(row) > column and row[column].strip()]


def _from_json(content: Any, path: str) -> list[str]:
    entries = content.get("keys") if isinstance(content, dict) else content
    if isinstance(entries, list):
        keys = [entry.get("key") if isinstance(entry, dict) else entry for entry in entries]
        if all(isinstance(key, str) for key in keys):
            return [str(key).strip() for key in keys if str(key).strip()]
    raise RectifyError(
        f'data.forget {path} is no list of keys; write ["a", "b"] or {{"keys": [...]}}, or index:FILE for numbers.'
    )


def _from_parquet(file: Path, path: str) -> list[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise RectifyError(f"data.forget {path}: Parquet needs pyarrow; install it, or write a CSV.") from error
    try:
        table = parquet.read_table(file)
    except Exception as error:
        raise RectifyError(f"data.forget {path} is no Parquet file ({str(error)[:80]}).") from error
    named = next((name for name in KEY_COLUMNS if name in table.column_names), None)
    if named is None:
        raise RectifyError(f"data.forget {path} has no column key; name the column of sample keys key.")
    return [str(key) for key in table.column(named).to_pylist() if key is not None]
