"""The table of public names, read from the source files themselves.

A class becomes public by standing in a file of a room: nothing is registered and no list is kept by hand, so adding an
objective touches no other file. The table serves the lazy exports of the rooms (`from lightning_rectify.losses import
FMix` imports only what it needs), the short class names in configs, and the "did you mean" of error messages.
"""

import ast
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PACKAGE = __name__.rpartition(".")[0]
ROOMS = (
    "attacks",
    "attribution",
    "backbones",
    "calibration",
    "callbacks",
    "datamodules",
    "lightning_modules",
    "losses",
    "metrics",
    "strategies",
    "unlearning",
)


@cache
def public_names(room: str) -> dict[str, str]:
    """Map each public class and function of a room (its sub-packages included) to the module that defines it."""
    table: dict[str, str] = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        relative = path.relative_to(ROOT).with_suffix("")
        if path.stem.startswith("_"):  # __init__, __main__, private modules
            continue
        module = ".".join((PACKAGE, *relative.parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                if node.name in table:
                    raise ImportError(f"{node.name} is defined in both {table[node.name]} and {module}")
                if (ROOT / room / f"{node.name}.py").exists() or (ROOT / room / node.name).is_dir():
                    # once imported, the file would stand in the room's namespace in the place of what it defines
                    raise ImportError(f"{module} defines {node.name}, which is also the name of a file of its room")
                table[node.name] = module
    return table


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the module-level `__getattr__` and `__dir__` of a room, which import a name's module on first use."""
    room = package.rpartition(".")[2]

    def __getattr__(name: str) -> Any:
        module = None if name.startswith("_") else public_names(room).get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), name)

    def __dir__() -> list[str]:
        return sorted(public_names(room))

    return __getattr__, __dir__


def import_rooms() -> None:
    """Import every public module, so that the command line resolves short class names among their subclasses."""
    for room in ROOMS:
        for module in sorted(set(public_names(room).values())):
            importlib.import_module(module)
