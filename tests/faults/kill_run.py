"""Kill a training 24 times, half of them while it writes a checkpoint, and look at what is left each time.

One warm process forks the trainings, so that a kill costs a fraction of a second instead of an import.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from faults.tiny_run import train
from processes import report

KILLS, BATCHES, WIDTH = 24, 120, 60_000

torch.set_num_threads(1)


def start(folder):
    pid = os.fork()
    if pid == 0:
        try:
            train(folder, BATCHES, WIDTH)
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return pid


def state(folder):
    """The steps of all checkpoints, each of which must load."""
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("*.ckpt")}


def main(folder):
    folder.mkdir()
    rng = random.Random(0)
    seen, steps, torn, early = 0, [], 0, 0
    for kill in range(KILLS):
        pid = start(folder)
        deadline = time.monotonic() + 60
        last = folder / "last.ckpt"
        before = last.stat().st_ino if last.exists() else 0
        while (not last.exists() or last.stat().st_ino == before) and time.monotonic() < deadline:
            time.sleep(0.002)  # until this life has saved once
        if kill % 2:
            while not any(name.startswith(".") for name in os.listdir(folder)) and time.monotonic() < deadline:
                pass  # until a checkpoint is being written
            time.sleep(rng.uniform(0, 0.004))
        else:
            time.sleep(rng.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        early += not os.WIFSIGNALED(status)
        torn += any(name.startswith(".") for name in os.listdir(folder))
        found = state(folder)
        assert found["last.ckpt"] >= seen, (found, seen)
        seen = found["last.ckpt"]
        steps.append(seen)
    _, status = os.waitpid(start(folder), 0)
    assert status == 0
    whole = folder.with_name("whole")
    _, status = os.waitpid(start(whole), 0)
    assert status == 0
    ends = [torch.load(place / "last.ckpt", weights_only=True) for place in (folder, whole)]
    equal = all(torch.equal(ends[0]["state_dict"][name], value) for name, value in ends[1]["state_dict"].items())
    leftovers = [name for name in os.listdir(folder) if name.startswith(".")]
    report({"steps": steps, "torn": torn, "early": early, "equal": equal, "leftovers": leftovers})


main(Path(sys.argv[1]))
