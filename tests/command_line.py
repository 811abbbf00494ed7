"""Run the command line inside this process: the imports cost ten seconds, a run of it one."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lightning_rectify.train import main


class Ended(NamedTuple):
    code: int
    out: str
    error: str
    """The last line of stderr."""
    lines: list[str]
    """All lines of stderr that are not log lines of a normal start."""


class CommandLine:
    """`command("fit", "-c", "quickstart")` in an empty working folder."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self.folder, self._capfd = folder, capfd
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["train.py"])

    def __call__(self, *arguments: object) -> Ended:
        self._capfd.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = self._capfd.readouterr()
        lines = [line for line in err.splitlines() if line.strip()]
        return Ended(code, out, lines[-1] if lines else "", lines)
