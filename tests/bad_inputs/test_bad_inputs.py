"""Each mistake gives one clear line and exit code 2, and leaves every file as it was."""

import hashlib
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from table import FIT  # noqa: E402

ROWS = [row for path in sorted(HERE.glob("rows_*.py")) for row in import_module(path.stem).ROWS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a trained checkpoint and a copy of the digits' shards."""
    import os

    from lightning_rectify.files import data_home
    from lightning_rectify.train import main

    folder = tmp_path_factory.mktemp("whole")
    before = Path.cwd()
    os.chdir(folder)
    try:
        main([str(argument) for argument in FIT])
    finally:
        os.chdir(before)
    shutil.copy(folder / "runs/quickstart/checkpoints/best.ckpt", folder / "base.ckpt")
    shutil.copytree(data_home() / "digits", folder / "shards")
    shutil.rmtree(folder / "runs")
    return folder


def digest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_table_is_long_enough():
    assert len(ROWS) >= 40 and len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input(row, whole, command):
    shutil.copytree(whole, command.folder, dirs_exist_ok=True)
    if row.prepare:
        row.prepare(command.folder)
    before = digest(command.folder)
    ended = command(*row.arguments)
    assert ended.code == 2, f"ended with {ended.code}: {ended.error}"
    assert ended.error.startswith("error: ")
    assert not any("Traceback" in line or line.startswith("usage:") for line in ended.lines)
    for part in row.said:
        assert part in ended.error, ended.error
    assert len(ended.error) < 400
    assert digest(command.folder) == before, "files were changed or left behind"
