"""The house keeps its plan: packages listed, imports relative and downward, one stem a method, nothing long."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    5: ["train", "commands"],
    4: ["lightning_modules", "callbacks"],
    3: ["losses"],
    2: ["attacks", "attribution", "calibration", "unlearning"],
    1: ["metrics", "datamodules", "backbones", "strategies"],
    0: ["collectives", "randomness", "frozen", "files", "errors", "names", "ratio"],
}
BESIDE = {("train", "commands"), ("files", "errors")}  # the ground floor's own error lies under its files
FLOOR = {room: floor for floor, rooms in ROOMS.items() for room in rooms}
CODE = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not path.relative_to(ROOT).parts[0].startswith((".", "tests", "benchmarks", "build", "runs"))
]


def room(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_rooms(path):
    """(room, line) of every import of ours."""
    depth = len(path.relative_to(ROOT).parts) - 1
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if node.level and node.level - 1 == depth:
                yield from (
                    (name, node.lineno) for name in (module if node.module else [a.name for a in node.names])[:1]
                )
            elif not node.level and module[0] == "lightning_rectify" and len(module) > 1:
                yield module[1], node.lineno


def test_every_package_folder_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(("lightning_rectify", *path.parent.relative_to(ROOT).parts)) for path in CODE}
    found.discard("lightning_rectify.docs")
    assert found | {"lightning_rectify.configs"} == listed


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = FLOOR.get(room(path))
    for target, line in imported_rooms(path):
        if own is None or target not in FLOOR or target == room(path):
            continue
        down = FLOOR[target] < own or (room(path), target) in BESIDE
        assert down, f"{path.relative_to(ROOT)}:{line} imports {target}, which is not below {room(path)}"


def test_nothing_imports_a_bare_room():
    for path in [*CODE, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in FLOOR, f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"


def test_files_are_short():
    lengths = sorted(len(path.read_text().splitlines()) for path in CODE)
    assert lengths[len(lengths) // 2] < 120
    assert [path.name for path in CODE if len(path.read_text().splitlines()) > 300] == []


def test_a_method_shares_one_stem():
    """Each objective config has a docs page and a test of its stem, or is a composition on its family's page."""
    pages = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "losses").rglob("test_*.py")}
    for config in sorted((ROOT / "configs" / "objective").glob("*.yaml")):
        composed = any(f"objective/{config.stem}" in text for text in pages.values())
        assert config.stem in pages or composed, f"{config.stem} has no docs page"
        assert config.stem in tests or composed, f"{config.stem} has no test"
