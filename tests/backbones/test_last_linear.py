"""The layer that gives the logits, whatever the network is made of: its output is the logits."""

import pytest
import torch
from foreign import Foreign
from small_backbone import Small
from torch import nn

from lightning_rectify.backbones import ResNet, TimmBackbone, logit_layer
from lightning_rectify.calibration import CalibratedBackbone, VectorScaling


class HeadFirst(nn.Module):
    """A head that is registered before layers of the features."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.body = nn.Linear(64, 6)

    def forward(self, image):
        return self.head(self.body(image.flatten(1)))


class Around(nn.Module):
    """A module whose own head stands behind a backbone with linear layers."""

    def __init__(self):
        super().__init__()
        self.head, self.backbone = nn.Linear(10, 4), Small().backbone

    def forward(self, image):
        return self.head(self.backbone(image))


@pytest.mark.parametrize(
    "make",
    [
        Foreign,
        Small,
        HeadFirst,
        Around,
        lambda: ResNet(10, channels=1, depth=8),
        lambda: TimmBackbone("resnet10t", classes=7, channels=1),
    ],
)
def test_its_output_is_the_logits(make):
    network = make().eval()
    seen = []
    logit_layer(network).register_forward_hook(lambda layer, given, output: seen.append(output))
    torch.testing.assert_close(network(torch.rand(2, 1, 8, 8)), seen[0])


def test_of_a_calibrated_network_it_is_the_one_before_the_map():
    backbone = Small().backbone
    assert logit_layer(CalibratedBackbone(backbone, VectorScaling(10))) is backbone.classifier


def test_a_network_without_one_has_none():
    assert logit_layer(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten())) is None
