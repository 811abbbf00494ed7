"""Faults of the machine: each ends in a sentence that names the cause and the remedy, and spoils no file."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from faults.tiny_run import Loader, train
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from processes import free_port
from torch.utils.data import DataLoader, Dataset

from lightning_rectify.callbacks import explain_failure
from lightning_rectify.errors import RectifyError
from lightning_rectify.strategies import AtomicCheckpoint


@pytest.fixture
def full_disk():
    """A function that lets this process write no more than so many bytes into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_full_disk_leaves_the_checkpoints_before_whole(tmp_path, full_disk):
    def fill(module, batch_idx):
        if batch_idx == 5:
            full_disk(10_000)

    with pytest.raises(RectifyError, match=r"\.ckpt cannot be written .File too large.; free the disk or choose"):
        train(tmp_path, width=2_000, on_step=fill)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_file_in_place_of_the_run_folder(tmp_path):
    place = tmp_path / "run"
    place.write_text("mine")
    with pytest.raises(RectifyError, match="cannot be written"):
        AtomicCheckpoint().save_checkpoint({}, place / "last.ckpt")
    assert files(tmp_path) == {"run": b"mine"}


def test_lightning_writes_into_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError):
        TorchCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
        pytest.fail("upstream changed: AtomicCheckpoint may be superfluous")
    AtomicCheckpoint().save_checkpoint({}, tmp_path / "last.ckpt")


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("damage", ["torn", "empty", "code", "absent"])
def test_an_unreadable_checkpoint_is_one_sentence(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1000)}, "more": Evil() if damage == "code" else 0}, path)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:1500])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "absent":
        path.unlink()
    with pytest.raises(RectifyError, match=r"^The checkpoint .*last.ckpt (cannot be read|does not exist)"):
        AtomicCheckpoint().load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("use", [lambda io, url: io.load_checkpoint(url), lambda io, url: io.save_checkpoint({}, url)])
def test_urls_are_refused(use):
    with pytest.raises(RectifyError, match="not read from or written to URLs"):
        use(AtomicCheckpoint(), "https://example.com/last.ckpt")


def test_a_dead_rank_ends_the_others_within_a_minute(tmp_path):
    """Both processes are started from outside, so that no launcher can end the survivor."""
    script, port, started = Path(__file__).with_name("dying_rank.py"), str(free_port()), time.monotonic()
    ranks = []
    for rank in range(2):
        place = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent.parent),
        }  # fmt: skip
        command = [sys.executable, str(script), str(tmp_path)]
        output = open(tmp_path / f"{rank}.log", "w+")  # noqa: SIM115
        env = {**os.environ, **place}
        ranks.append((subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT), output))
    try:
        assert ranks[1][0].wait(600) == -signal.SIGKILL, (tmp_path / "1.log").read_text()
        died = time.monotonic()
        assert ranks[0][0].wait(60) != 0
    finally:
        for process, output in ranks:
            process.kill()
            output.close()
    assert time.monotonic() - died < 60 and died > started
    text = (tmp_path / "0.log").read_text()
    assert "Another process of the run died" in text and "rank 0)" in text, text
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


class Killed(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(8)


def test_a_dead_worker_is_explained(tmp_path, monkeypatch):
    loader = DataLoader(Killed(), num_workers=1, multiprocessing_context="fork")
    monkeypatch.setattr("faults.tiny_run.Loader", lambda batches: loader)
    with pytest.raises((RuntimeError, ConnectionError, EOFError)) as caught:  # by what the worker was doing
        train(tmp_path)
    assert "A loader worker died" in explain_failure(caught.value) and "data.workers" in explain_failure(caught.value)


class Broken(Dataset):
    """A mistake in the user's own code, of any words."""

    def __init__(self, message):
        self.message = message

    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("the label is not in the table", None),
        ("connection reset by peer", None),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "Out of memory"),
    ],
)
def test_an_error_in_a_worker_is_not_its_death(message, named):
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(Broken(message), num_workers=1, multiprocessing_context="fork"))
    explained = explain_failure(caught.value)
    assert explained is None if named is None else named in explained and message in explained


def test_out_of_memory_names_what_to_change(tmp_path):
    def exhaust(module, batch_idx):
        if batch_idx == 2:
            torch.empty(10**15)

    with pytest.raises(RuntimeError) as caught:
        train(tmp_path, on_step=exhaust)
    [note] = caught.value.__notes__
    assert "data.batch_size" in note and "accumulate_grad_batches" in note and "(step 2, rank 0)" in note


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "batch_size"),
        (MemoryError(), "batch_size"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a.csv"), "/runs/a.csv"),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), "Another process of the run died"),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), "does not answer"),
    ],
)
def test_known_failures(error, named):
    explained = explain_failure(error)
    assert named in explained and explained.endswith(f"{error})" if str(error) else "(MemoryError)"), explained


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("shapes differ"), OSError(errno.EPERM, "")]
)
def test_other_errors_are_left_alone(error):
    assert explain_failure(error) is None


def test_the_loader_of_these_tests_resumes():
    loader = Loader(4)
    loader.load_state_dict({"done": 3})
    assert len(list(loader)) == 1 and len(list(loader)) == 4
