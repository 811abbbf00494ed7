"""Kill a process 40 times while it replaces a sealed folder, with and without an exchange in one step."""

import os
import random
import signal
import sys
import time
from pathlib import Path

from processes import report

from lightning_rectify.strategies import swapping
from lightning_rectify.strategies.deepspeed import _finish
from lightning_rectify.strategies.sealing import check_seal

KILLS = 20


def save_forever(folder, exchange):
    if not exchange:
        swapping._exchange = lambda one, other: False
    target, partial = folder / "last.ckpt", folder / ".last.ckpt.partial"
    for step in range(1_000_000):
        swapping.shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for shard in range(20):
            (partial / f"{shard}.pt").write_bytes(os.urandom(1000))
        _finish({"callbacks": {"Preemption": {"fingerprint": "f"}}, "global_step": step}, partial, target)


def inode(path):
    """None while there is nothing, as between two renames."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def lives(folder, exchange):
    folder.mkdir()
    rng, met, displaced, target = random.Random(0), 0, 0, folder / "last.ckpt"
    for _ in range(KILLS):
        pid = os.fork()
        if pid == 0:
            save_forever(folder, exchange)
        deadline = time.monotonic() + 60
        while (before := inode(target)) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        while inode(target) in (None, before) and time.monotonic() < deadline:
            time.sleep(0.0005)  # until this life has saved once
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        met += any(path.name != target.name for path in folder.iterdir())
        displaced += not target.exists()
        whole = swapping.present(target)
        check_seal(whole)
        assert whole in list(folder.glob("last*.ckpt"))
    return {"met": met, "displaced": displaced}


place = Path(sys.argv[1])
place.mkdir()
os.environ["XDG_CONFIG_HOME"] = str(place / "config")
report({"exchange": lives(place / "exchange", True), "rename": lives(place / "rename", False)})
