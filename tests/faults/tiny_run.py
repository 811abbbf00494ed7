"""A small training with a checkpoint after every step, for the tests that break it."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_rectify.callbacks import ExplainFailure
from lightning_rectify.strategies import AtomicCheckpoint


class Loader:
    """Batches are a function of the position, and the position is saved."""

    position = done = 0

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return self.batches

    def __iter__(self):
        start, self.done = self.done, 0
        for position in range(start, self.batches):
            self.position = (position + 1) % self.batches
            yield torch.randn(4, 8, generator=torch.Generator().manual_seed(position))

    def state_dict(self):
        return {"done": self.position}

    def load_state_dict(self, state):
        self.done = state["done"]


class Net(pl.LightningModule):
    """`width` sets how long a checkpoint takes to write."""

    def __init__(self, batches, width=8, on_step=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(8, width)
        self.loader, self.on_step = Loader(batches), on_step

    def train_dataloader(self):
        return self.loader

    def training_step(self, batch, batch_idx):
        if self.on_step is not None:
            self.on_step(self, batch_idx)
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def train(folder, batches=50, width=8, on_step=None, callbacks=(), **options):
    """Train one epoch, going on from `last.ckpt` if there is one."""
    folder = Path(folder)
    saver = pl.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=2, monitor="step", mode="max", save_last=True,
        enable_version_counter=False,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=folder, logger=False, plugins=[AtomicCheckpoint()],
        callbacks=[saver, ExplainFailure(), *callbacks], enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, **{"devices": 1, **options},
    )  # fmt: skip
    last = folder / "last.ckpt"
    net = Net(batches, width, on_step)
    trainer.fit(net, ckpt_path=last if last.exists() else None, weights_only=True)
    return net
