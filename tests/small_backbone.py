"""A module whose backbone has features and a linear head, as our callbacks read it."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from lightning_rectify.backbones import Backbone


class Net(Backbone):
    def __init__(self, width=12):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.classifier = nn.Linear(width, 10)

    def features(self, image):
        return self.body(image)

    def head(self, features):
        return self.classifier(features)


class Small(pl.LightningModule):
    def __init__(self, lr=0.1):
        super().__init__()
        self.backbone, self.lr, self.losses = Net(), lr, []

    def forward(self, image):
        return self.backbone(image)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch["image"]), batch["label"])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)
