"""Preemption in two processes: one is signalled, and one cannot write."""

import os
import signal
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from processes import report, start
from torch import nn

from lightning_rectify.callbacks import Preemption
from lightning_rectify.strategies import AtomicCheckpoint


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.steps = nn.Linear(4, 2), 0

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(24, 4), batch_size=4)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        if batch_idx == 2 and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Full(AtomicCheckpoint):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        raise OSError("no space left")


class NoRename(Preemption):
    def _give_name(self, *arguments):
        raise OSError("no space left")


def run(folder, callback=None, io=None):
    strategy = pl.strategies.DDPStrategy(process_group_backend="gloo")
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, default_root_dir=folder, logger=False,
        callbacks=[callback or Preemption()], plugins=[io or AtomicCheckpoint()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    net = Net()
    try:
        trainer.fit(net)
    except BaseException as error:
        return net, error
    return net, None


rank, _ = start()
folder = Path(sys.argv[1])
net, error = run(folder / "stopped")
found = {"stopped": type(error).__name__, "steps": net.steps, "saved": sorted(os.listdir(folder / "stopped"))}
begun = time.monotonic()
for case, options in (("write", {"io": Full()}), ("rename", {"callback": NoRename()})):
    error = run(folder / case, **options)[1]
    found[case] = f"{type(error).__name__}: {error}"
report({**found, "seconds": time.monotonic() - begun})
