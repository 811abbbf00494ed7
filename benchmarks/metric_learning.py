"""TCM against pytorch-metric-learning 2.9, and OPIS on a test set of the size of Stanford Online Products.

    python benchmarks/metric_learning.py

TCM: forward and backward, batch 768 of 512 dimensions, 8 images per class, unit vectors; both take turns on one thread.

OPIS: 60,502 embeddings of 512 dimensions in 11,316 classes, random around class centres; memory is what the process
grows to at its peak. The peaks are read in processes of their own.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import interleaved, write_result

BATCH, DIMENSION, IMAGES_PER_CLASS = 768, 512, 8
EMBEDDINGS, CLASSES = 60_502, 11_316


def rows(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, DIMENSION, generator=generator)
    return F.normalize(centres[labels] + 1.5 * torch.randn(count, DIMENSION, generator=generator), dim=1), labels


def tcm(which: str) -> Callable[[], None]:
    from pytorch_metric_learning.losses import ThresholdConsistentMarginLoss

    from lightning_rectify.losses import ThresholdConsistentMargin

    loss = ThresholdConsistentMargin() if which == "ours" else ThresholdConsistentMarginLoss()
    unit, labels = rows(BATCH, BATCH // IMAGES_PER_CLASS)
    unit.requires_grad_()

    def step() -> None:
        unit.grad = None
        loss(unit, labels).backward()

    return step


def resident_mb() -> float:
    """Megabytes this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mb() -> float:
    """Most megabytes this process ever held; getrusage's figure would be the parent's, which a new process inherits."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def tcm_memory(which: str) -> dict[str, float]:
    torch.set_num_threads(1)
    step = tcm(which)
    small = torch.randn(8, 8, requires_grad=True)
    (small @ small).sum().backward()  # autograd's threads and the BLAS's buffers are not the loss's
    before = max(resident_mb(), peak_mb())
    step()
    return {"extra_mb": round(peak_mb() - before, 1)}


def opis(_: str) -> dict[str, Any]:
    torch.set_num_threads(2)
    from lightning_rectify.metrics import OperatingPointInconsistency

    metric = OperatingPointInconsistency()
    metric.update(*rows(EMBEDDINGS, CLASSES))
    before = max(resident_mb(), peak_mb())
    start, work = time.perf_counter(), time.process_time()
    values = metric.compute()
    seconds, work = time.perf_counter() - start, time.process_time() - work
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(work, 1),
        "extra_mb": round(peak_mb() - before, 1),
        "eer": round(float(values["eer"]), 6),
    }


def alone(function: Callable[[str], Any], argument: str = "") -> Any:
    """Run in a fresh process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (argument,))


if __name__ == "__main__":
    # one thread for both: threads that wait for each other on a busy machine measure the neighbours
    torch.set_num_threads(1)
    functions = {"ours": tcm("ours"), "pytorch-metric-learning": tcm("theirs")}
    times = interleaved(functions, repeats=3, warmup=1)
    write_result(
        "metric_learning",
        {
            "tcm": {
                "batch": [BATCH, DIMENSION],
                "ms": times["ours"].milliseconds,
                "reference_ms": times["pytorch-metric-learning"].milliseconds,
                "speedup": round(times["pytorch-metric-learning"].slower_than(times["ours"]), 1),
                **alone(tcm_memory, "ours"),
                "reference_extra_mb": alone(tcm_memory, "theirs")["extra_mb"],
            },
            "opis": {"embeddings": [EMBEDDINGS, DIMENSION], "classes": CLASSES, **alone(opis)},
        },
    )
