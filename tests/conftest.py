"""Every test runs with a fixed seed, few threads, and data and caches in a folder of its own session."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    torch.manual_seed(0)
    # `seed_everything` leaves these behind, and the order of the data reads the first
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory):
    """RECTIFY_DATA for the session, so that tests build their shards once and touch nobody's cache."""
    folder = tmp_path_factory.mktemp("data")
    os.environ["RECTIFY_DATA"] = str(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")  # where the key of checkpoint seals lies
    return folder


@pytest.fixture
def command(tmp_path, capfd, monkeypatch):
    """The command line in an empty working folder."""
    from command_line import CommandLine

    return CommandLine(tmp_path, capfd, monkeypatch)
