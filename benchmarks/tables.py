"""Write the tables of benchmarks/README.md from the committed results.

python benchmarks/tables.py           # rewrites everything below the marker
python benchmarks/tables.py --check   # exits with 1 if the page is out of date
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
MARKER = "<!-- tables: written by tables.py -->\n"


def cell(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"mean", "half_interval"}:
        return f"{value['mean']:.4g} ± {value['half_interval']:.2g}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)}, each in the result file"
    if isinstance(value, list):
        return (
            " x ".join(map(str, value)) if all(isinstance(item, int) for item in value) else ", ".join(map(str, value))
        )
    return str(value)


def is_leaf(value: Any) -> bool:
    return not isinstance(value, dict) or set(value) == {"mean", "half_interval"}


def table(figures: dict[str, Any], depth: int = 0) -> list[str]:
    """Lines of Markdown: single values as one table, a dictionary of like dictionaries as one with columns."""
    lines: list[str] = []
    single = {name: value for name, value in figures.items() if is_leaf(value)}
    if single:
        lines += ["| | |", "|---|---|", *(f"| {words(name)} | {cell(value)} |" for name, value in single.items()), ""]
    for name, value in figures.items():
        if is_leaf(value):
            continue
        lines += [f"{words(name)}:", ""]
        rows = {key: row for key, row in value.items() if isinstance(row, dict) and not is_leaf(row)}
        if rows and len(rows) == len(value) and all(is_leaf(item) for row in rows.values() for item in row.values()):
            columns = list(dict.fromkeys(key for row in rows.values() for key in row))
            lines += [f"| | {' | '.join(map(words, columns))} |", "|---" * (len(columns) + 1) + "|"]
            for key, row in rows.items():
                lines.append(f"| {words(key)} | {' | '.join(cell(row[c]) if c in row else '' for c in columns)} |")
            lines.append("")
        else:
            lines += table(value, depth + 1)
    return lines


def words(name: str) -> str:
    return name.replace("_", " ")


def page() -> str:
    lines = []
    for path in sorted((HERE / "results").glob("*.json")):
        figures = json.loads(path.read_text())
        machine = figures.pop("machine")
        where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
        lines += [f"## {path.stem}", ""]
        start = f"{machine['threads']} threads, load {machine['load']:g} at the start"
        lines += [f"`benchmarks/{path.stem}.py`; {where}, {start}, torch {machine['torch']}, {machine['date']}.", ""]
        lines += table(figures)
    return PAGE.read_text().split(MARKER)[0] + MARKER + "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
