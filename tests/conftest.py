"""Every test runs with a fixed seed, few threads, and data and caches in a folder of its own session."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from torch import distributed

torch.set_num_threads(1)

LEFT_BEHIND = (
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
)
"""What `seed_everything` and a strategy of one process leave in the environment."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """What a test finds does not depend on those that ran before it in this process."""
    torch.manual_seed(0)
    for name in LEFT_BEHIND:
        monkeypatch.delenv(name, raising=False)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    # what a training in this process may have set for good
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)


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
