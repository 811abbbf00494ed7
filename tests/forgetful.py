"""A LightningModule, data and a request to forget as somebody else would write them."""

import pytorch_lightning as pl
import torch
from foreign import IMAGES, Indexed
from foreign import LABELS as LABELS
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

from lightning_rectify.strategies import shard

FORGET = (200, 237)  # an odd number: two ranks pad


class Stateful:
    """Training batches in fixed order that go on where a checkpoint left them."""

    def __init__(self, rank, world, batches, batch):
        self.rank, self.world, self.batches, self.batch, self.done = rank, world, batches, batch, 0

    def __len__(self):
        return self.batches

    def __iter__(self):
        for step in range(self.done % self.batches, self.batches):
            self.done = step + 1
            start = (step * self.world + self.rank) * self.batch
            rows = slice(start, start + self.batch)
            # what is forgotten gets wrong labels, so that gradients do not vanish
            yield {
                "image": IMAGES[rows],
                "label": (LABELS[rows] + 3) % 10,
                "index": torch.arange(rows.start, rows.stop),
            }

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


class Data(pl.LightningDataModule):
    """Counts how often the forget set is asked for."""

    def __init__(self, batches=6, batch=8, forget=FORGET, dicts=True):
        super().__init__()
        self.sizes, self.forget, self.dicts, self.asked = (batches, batch), forget, dicts, 0

    def train_dataloader(self):
        return Stateful(self.trainer.global_rank, self.trainer.world_size, *self.sizes)

    def forget_dataloader(self):
        self.asked += 1
        data, sampler = Indexed(*self.forget, self.dicts), None
        if self.trainer.world_size > 1:
            sampler = DistributedSampler(data, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, 16, sampler=sampler)


class Module(pl.LightningModule):
    """Its network is not called `backbone`; its optimizer comes from outside."""

    def __init__(self, optimizer=lambda weights: torch.optim.SGD(weights, 0.05, momentum=0.9), norm="group"):
        super().__init__()
        self.optimizer = optimizer
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 10),
        )

    def forward(self, image):
        return self.net(image)

    def configure_model(self):
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.net, self.device_mesh)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class SaveAt(pl.Callback):
    """Save a checkpoint after some optimizer step."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.path)


def trainer(folder, *callbacks, **options):
    quiet = {
        "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False,
        "num_sanity_val_steps": 0, "limit_val_batches": 0, "use_distributed_sampler": False,
    }  # fmt: skip
    common = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "default_root_dir": folder}
    return pl.Trainer(**{**quiet, **common, **options}, callbacks=list(callbacks))


def off_mask(mask, before, after):
    """(weights off the mask that differ, weights on it that differ), of dicts of whole weights by plain name."""
    off = on = 0
    for name, value in before.items():
        moved = value != after[name]
        keep = mask.bits(name) if name in mask.packed else torch.zeros_like(moved)
        off += int((moved & ~keep).sum())
        on += int((moved & keep).sum())
    return off, on


def weights(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
