"""Time of a training step under each strategy with two CPU processes, and what the project adds to a bare loop.

    python benchmarks/distributed.py [--steps 60]

A ResNet-8 (GroupNorm) trains on 32 random 32x32 images per process. Under `bare` the same network, loss and optimizer
run in a plain PyTorch loop in the same processes (wrapped in DDP, or sharded by `fully_shard`), before and after the
project's run; `added` is the median of ours over the median of both bare runs, minus one. Each strategy is a launch of
its own, so times of different strategies met a different load of the machine.
"""

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

CASES = {"one_process": 1, "ddp": 2, "fsdp2": 2, "zero1": 2, "zero2": 2, "zero3": 2}
WARMUP, BATCH = 10, 32


def launch(case: str, steps: int, folder: str) -> dict:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    world = CASES[case]
    processes = []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}, "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, __file__, "--case", case, "--steps", str(steps), "--out", f"{folder}/{case}.json"]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    if any(process.wait() for process in processes):
        raise SystemExit(f"{case} failed")
    return json.loads(Path(f"{folder}/{case}.json").read_text())


def measure(case: str, steps: int, out: Path) -> None:
    """Run one strategy in this rank; rank 0 writes its figures."""
    import pytorch_lightning as pl
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    from lightning_rectify.backbones import ResNet
    from lightning_rectify.lightning_modules import Classifier
    from lightning_rectify.strategies import FSDP2, DeepSpeed, shard

    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), CASES[case]
    if world > 1:
        dist.init_process_group("gloo")
    batch = {
        "image": torch.rand(BATCH, 3, 32, 32),
        "label": torch.randint(10, (BATCH,)),
        "index": torch.arange(BATCH) + rank * BATCH,
    }

    def network():
        torch.manual_seed(0)
        return ResNet(classes=10, depth=8, norm="group")

    class Batches(torch.utils.data.Dataset):
        def __len__(self):
            return steps + WARMUP

        def __getitem__(self, index):
            return batch

    class Clock(pl.Callback):
        def __init__(self):
            self.ticks = []

        def on_train_batch_end(self, *args):
            self.ticks.append(time.perf_counter())

    class Module(Classifier):
        def configure_model(self):
            if case == "fsdp2":
                shard(self.backbone, self.device_mesh)

    def between(ticks):
        return [later - earlier for earlier, later in zip(ticks[WARMUP - 1 :], ticks[WARMUP:], strict=False)]

    def ours():
        clock = Clock()
        strategies = {"one_process": "auto", "ddp": "ddp", "fsdp2": FSDP2()}
        strategy = strategies[case] if case in strategies else DeepSpeed(stage=int(case[-1]))
        trainer = pl.Trainer(
            accelerator="cpu", devices=world, strategy=strategy, max_epochs=1, logger=False, callbacks=[clock],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        module = Module(network(), optimizer=partial(torch.optim.SGD, lr=0.01))
        trainer.fit(module, torch.utils.data.DataLoader(Batches(), batch_size=None))
        return between(clock.ticks)

    def bare():
        net = network()
        if case == "fsdp2":
            shard(net, dist.device_mesh.init_device_mesh("cpu", (world,)))
        model = torch.nn.parallel.DistributedDataParallel(net) if case == "ddp" else net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        ticks = []
        for data in torch.utils.data.DataLoader(Batches(), batch_size=None):
            optimizer.zero_grad()
            F.cross_entropy(model(data["image"]), data["label"]).backward()
            optimizer.step()
            ticks.append(time.perf_counter())
        return between(ticks)

    milliseconds = lambda seconds: round(1e3 * statistics.median(seconds), 2)  # noqa: E731
    if case.startswith("zero"):
        figures = {"ours_ms": milliseconds(ours())}
    else:
        before, mine, after = bare(), ours(), bare()
        figures = {"ours_ms": milliseconds(mine), "bare_ms": milliseconds(before + after)}
        figures["added"] = round(figures["ours_ms"] / figures["bare_ms"] - 1, 3)
    if rank == 0:
        out.write_text(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.case:
        return measure(arguments.case, arguments.steps, arguments.out)
    from measure import write_result

    with tempfile.TemporaryDirectory() as folder:
        figures = {case: launch(case, arguments.steps, folder) for case in CASES}
    write_result("distributed", {"images_per_process": BATCH, "steps": arguments.steps, "step": figures})
    return None


if __name__ == "__main__":
    main()
