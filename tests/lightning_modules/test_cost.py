"""The estimate against what torch itself reports."""

import copy

import torch

from lightning_rectify.backbones import ResNet
from lightning_rectify.lightning_modules import cost_line
from lightning_rectify.losses import EmpiricalRisk


class Taught(EmpiricalRisk):
    frozen_copies = 1
    passes = 2.5

    def setup(self, backbone):
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)


def test_the_line_counts_weights_gradients_optimizer_and_copies():
    backbone, objective = ResNet(10, width=64), Taught()
    objective.setup(backbone)
    optimizer = torch.optim.AdamW(backbone.parameters())
    backbone(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in backbone.parameters()) / 2**20
    held = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if v.numel() > 1) / 2**20
    line = cost_line(backbone, objective, ["AdamW"], 1234)
    assert f"weights {weights:,.1f} MiB, gradients {weights:,.1f} MiB, optimizer {held:,.1f} MiB" in line
    assert f"1 frozen copies {weights:,.1f} MiB" in line and "1,234 steps of 2.5 " in line


def test_an_endless_training_is_said_to_be_one():
    assert "unknown number" in cost_line(ResNet(10), EmpiricalRisk(), ["SGD"], float("inf"))
