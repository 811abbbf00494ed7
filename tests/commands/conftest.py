import pytest
from command_line import CommandLine


@pytest.fixture
def command(tmp_path, capfd, monkeypatch):
    return CommandLine(tmp_path, capfd, monkeypatch)
