"""Run a script in several gloo processes and collect what each rank reports.

A launch is import-bound (seconds), so one script holds many cases and reports them all in one dictionary:

    # tests/losses/ranks_mixing.py
    from processes import report, start
    rank, world = start()
    report({"case": value, ...})

    # tests/losses/test_mixing.py
    @pytest.fixture(scope="module")
    def ranks():
        return run_ranks(Path(__file__).with_name("ranks_mixing.py"))
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a port that no other worker of this test run takes, and that no outgoing connection is given."""
    first = 20000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for port in random.Random().sample(range(first, first + 1000), 1000):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def run_ranks(
    script: Path, *args: str, world_size: int = 2, timeout: float = 600, env: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run `python script args…` once per rank; return each rank's report, in rank order.

    Raises:
        AssertionError: a rank failed or ran into the timeout; the message holds the end of its output.
    """
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(world_size):
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "RANK_REPORT": f"{folder}/{rank}.json",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
            }
            log = open(f"{folder}/{rank}.log", "w+")  # noqa: SIM115 - closed below, lives as long as the process
            process = subprocess.Popen(
                [sys.executable, str(script), *args],
                env={**os.environ, **place, **(env or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            ranks.append((process, log))
        reports, failures = [], []
        for rank, (process, log) in enumerate(ranks):
            try:
                code: int | str = process.wait(timeout)
            except subprocess.TimeoutExpired:
                code = f"timeout after {timeout} s"
                for other, _ in ranks:
                    other.kill()
            log.seek(0)
            output = log.read()
            log.close()
            if code != 0:
                failures.append(f"rank {rank} ended with {code}:\n{output[-4000:]}")
                for other, _ in ranks:
                    other.kill()
                continue
            reports.append(json.loads(Path(f"{folder}/{rank}.json").read_text()))
        assert not failures, "\n\n".join(failures)
        return reports


def start(timeout_s: float = 300) -> tuple[int, int]:
    """Join the gloo group described by the environment; return (rank, world size). Also works as a single process."""
    import torch

    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    return int(os.environ.get("RANK", "0")), world


def ranks_trainer(world: int, **options: Any) -> Any:
    """Return a silent CPU trainer of the processes that were joined by `start`."""
    import pytorch_lightning as pl

    return pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=pl.strategies.DDPStrategy(process_group_backend="gloo") if world > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def report(results: dict[str, Any]) -> None:
    """Hand this rank's results (tensors become lists) to the test that launched it."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    Path(os.environ["RANK_REPORT"]).write_text(json.dumps(results, default=plain))
    import torch.distributed as dist

    if dist.is_initialized():  # a rank that leaves while another still talks to it can abort
        dist.barrier()
        dist.destroy_process_group()
