"""A LightningModule and data as somebody else would write them: nothing here is this package's."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

DIGITS = load_digits()
IMAGES = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None] / 16
LABELS = torch.tensor(DIGITS.target)


class Indexed(torch.utils.data.Dataset):
    """Digits `start … stop` as dicts with their index, or as tuples without."""

    def __init__(self, start, stop, dicts=True):
        self.start, self.stop, self.dicts = start, stop, dicts

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, place):
        index = self.start + place
        if self.dicts:
            return {"image": IMAGES[index], "label": LABELS[index], "index": index}
        return IMAGES[index], LABELS[index]


class Data(pl.LightningDataModule):
    """Fixed order; evaluation loaders pad as DistributedSampler does."""

    def __init__(self, train=256, val=(1000, 1301), batch=32, dicts=True, class_names=None):
        super().__init__()
        self.sizes, self.batch, self.dicts = (train, val), batch, dicts
        if class_names:
            self.class_names = class_names

    def _loader(self, start, stop):
        data = Indexed(start, stop, self.dicts)
        sampler = None
        if self.trainer.world_size > 1:
            sampler = DistributedSampler(data, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, self.batch, sampler=sampler)

    def train_dataloader(self):
        return self._loader(0, self.sizes[0])

    def val_dataloader(self):
        return self._loader(*self.sizes[1])

    def test_dataloader(self):
        return self._loader(*self.sizes[1])


class Foreign(pl.LightningModule):
    """Batch normalisation, dropout, and steps that hand out nothing."""

    def __init__(self, norm=True):
        super().__init__()
        self.losses = []
        layers = [
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8),
            nn.ReLU(inplace=True),
        ]
        layers += [nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.3)]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))

    def forward(self, image):
        return self.net(image)

    def _read(self, batch):
        return (batch["image"], batch["label"]) if isinstance(batch, dict) else batch

    def training_step(self, batch, batch_idx):
        image, label = self._read(batch)
        loss = F.cross_entropy(self(image), label)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class WithOutputs(Foreign):
    """Steps that hand out logits and labels, as ours do."""

    def validation_step(self, batch, batch_idx):
        image, label = self._read(batch)
        return {"logits": self(image), "label": label}

    test_step = validation_step


def trainer(folder, *callbacks, **options):
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    common = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "default_root_dir": folder}
    return pl.Trainer(**{**quiet, **common, **options}, callbacks=list(callbacks))
