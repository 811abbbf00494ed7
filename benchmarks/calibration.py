"""Streaming calibration against torchmetrics, and what the report adds to an epoch.

    python benchmarks/calibration.py                 # writes results/calibration.json

50,000 forecasts of 100 classes in batches of 256, top-label ECE with 15 bins, update and compute, by turns and on one
thread. torchmetrics is measured without its checks of arguments (`validate_args=False`), which is its faster way. The
report's cost is that of its updates, its reduction and its figure beside an epoch of a small network, timed part by
part in one process: the difference of two whole epochs would be smaller than their noise.
"""

import argparse
import tempfile
import time
import warnings

import torch
from measure import interleaved, keep_freed_memory, write_result
from torchmetrics.classification import MulticlassCalibrationError

from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks.reliability_figure import draw_reliability
from lightning_rectify.metrics import (
    BufferedCalibrationError,
    CalibrationSums,
    ClassWiseCalibrationError,
    KolmogorovSmirnovError,
    TopLabelCalibrationError,
)

SAMPLES, CLASSES, BATCH = 50_000, 100, 256
TARGET, BUFFERED_TARGET = 1.5, 2.0


def batches():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SAMPLES, CLASSES, generator=generator) * 3
    label = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return list(zip(logits.split(BATCH), label.split(BATCH), strict=True))


def feed(make, data):
    metric = make()
    for logits, label in data:
        metric.update(logits, label)
    return metric.compute()


def numbers(metric):
    """Numbers of state after the updates."""
    return sum(
        sum(part.numel() for part in value) if isinstance(value, list) else value.numel()
        for value in (getattr(metric, name) for name in metric._defaults)
    )


def epoch_share():
    """Seconds of an epoch of ResNet-8 on 54,000 Fashion-MNIST-sized images, and of the report on 6,000 of them."""
    net = ResNet(10, channels=1, depth=8, width=8)
    image, label = torch.rand(64, 1, 28, 28), torch.randint(10, (64,))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(image), label).backward()
        optimizer.step()

    logits = torch.randn(64, 10)
    sums = CalibrationSums(10)

    def update():
        sums.update(logits, label)

    times = interleaved({"step": step, "update": update}, repeats=30, calls=4)
    ends = []
    for _ in range(5):
        start = time.perf_counter()
        result = sums.compute()
        with tempfile.TemporaryFile() as file:
            draw_reliability(result.reliability, "val").savefig(file, format="png")
        ends.append(time.perf_counter() - start)
    training = times["step"].median * (54_000 // 64)
    report = times["update"].median * -(-6000 // 64) + sorted(ends)[2]
    return training, report


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    data = batches()
    makers = {
        "torchmetrics": lambda: MulticlassCalibrationError(CLASSES, 15, validate_args=False),
        "torchmetrics, checked": lambda: MulticlassCalibrationError(CLASSES, 15),
        "TopLabelCalibrationError": TopLabelCalibrationError,
        "BufferedCalibrationError": BufferedCalibrationError,
        "KolmogorovSmirnovError": KolmogorovSmirnovError,
        "ClassWiseCalibrationError": lambda: ClassWiseCalibrationError(CLASSES),
        "CalibrationSums": lambda: CalibrationSums(CLASSES),
    }
    times = interleaved({name: lambda make=make: feed(make, data) for name, make in makers.items()}, options.repeats, 1)
    reference = times["torchmetrics"]
    table = {}
    for name, make in makers.items():
        metric = make()
        for logits, label in data:
            metric.update(logits, label)
        own = {"milliseconds": times[name].milliseconds, "times_faster": round(reference.slower_than(times[name]), 2)}
        table[name] = {**own, "state_numbers": numbers(metric)}
    same = abs(float(feed(TopLabelCalibrationError, data)) - float(feed(makers["torchmetrics"], data)))
    training, report = epoch_share()
    claims = {
        "streaming at least 1.5 times torchmetrics": table["TopLabelCalibrationError"]["times_faster"] >= TARGET,
        "buffered at least 2 times torchmetrics": table["BufferedCalibrationError"]["times_faster"] >= BUFFERED_TARGET,
        "state of at most 64 numbers": table["TopLabelCalibrationError"]["state_numbers"] <= 64,
        "report at most 1 % of an epoch": report <= 0.01 * training,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILED'}: {claim}")
    write_result(
        "calibration",
        {
            "samples": SAMPLES,
            "classes": CLASSES,
            "batch": BATCH,
            "repeats": options.repeats,
            "difference_to_torchmetrics": round(same, 8),
            "ece": table,
            "report_in_an_epoch": {
                "training_seconds": round(training, 2),
                "report_seconds": round(report, 3),
                "share_percent": round(100 * report / training, 2),
            },
            "failed": [claim for claim, holds in claims.items() if not holds] or "none",
        },
    )


if __name__ == "__main__":
    main()
