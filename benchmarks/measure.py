"""Timing by turns, and results with a description of the machine.

A shared machine is slow for seconds at a time. Functions that take turns within one process meet the same weather, so
their ratio means something where a time alone does not.
"""

import contextlib
import ctypes
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of one function over all rounds, in the order they ran."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def milliseconds(self) -> float:
        return round(1e3 * self.median, 4)

    def slower_than(self, other: "Timing") -> float:
        """Return the median over rounds of this time divided by the other's in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def minus(self, other: "Timing") -> float:
        """Return the median over rounds of this time less the other's in the same round, in seconds."""
        return statistics.median(a - b for a, b in zip(self.seconds, other.seconds, strict=True))


def interleaved(
    functions: dict[str, Callable[[], Any]], repeats: int, warmup: int = 3, calls: int = 1
) -> dict[str, Timing]:
    """Run all functions by turns, `repeats` rounds after `warmup`; waits for the GPU before reading the clock.

    Args:
        calls: calls in a row within a turn, timed together, for functions so short that the neighbour's data in the
            cache would be measured.
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            wait()
            if turn >= warmup:
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: Timing(values) for name, values in seconds.items()}


def interval(values: Sequence[float], digits: int = 5) -> dict[str, float]:
    """Mean and the half-width of its 95 % Student interval; two values or more."""
    from scipy.stats import t as student

    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": round(statistics.fmean(values), digits), "half_interval": round(float(half), digits)}


def keep_freed_memory() -> None:
    """Let the C allocator keep what is freed, as in a warm training process, instead of returning it to the system.

    Otherwise whether a megabyte-sized temporary costs hundreds of page faults depends on the state of the heap, and a
    time may jump eightfold between two runs.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "pytorch-lightning", "torchmetrics", "timm")},
        "date": time.strftime("%Y-%m-%d"),
    }


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json` and print it."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=2)
    path.write_text(text + "\n")
    print(text)
    return path
