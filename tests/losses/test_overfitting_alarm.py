"""The alarm rings when the accuracy under PGD falls, once, and stays silent otherwise."""

import warnings

import pytest
import torch
from torch import nn

from lightning_rectify.attacks import NFGSM, PGD
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import AdversarialTraining, Context, OverfittingAlarm


class Threshold(nn.Module):
    """Says class 1 where the mean pixel is above ½; `brittle` moves all images next to the threshold."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.brittle = False

    def forward(self, image):
        away = image.mean((1, 2, 3)) - 0.5
        away = (
            (away - (away > 0).float() * away.detach() * 0.999 - (away < 0).float() * away.detach() * 0.999)
            if (self.brittle)
            else away
        )
        return torch.stack([-away, away], 1) * self.scale


def test_rings_once_and_is_saved():
    image = torch.cat([torch.full((8, 1, 4, 4), 0.3), torch.full((8, 1, 4, 4), 0.7)])
    data = {"image": image, "label": torch.arange(2).repeat_interleave(8)}
    backbone, alarm = Threshold(), OverfittingAlarm(PGD(0.05, 0.02, 3), every=2)
    objective = AdversarialTraining(NFGSM(0.05), alarm=alarm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(4):
            terms = objective(backbone, data, Context(step)).terms
            assert terms["pgd_accuracy"] == 1 and terms["overfitting_alarm"] == 0
        alarm.best.fill_(0.9)
        alarm.latest.zero_()
        assert objective(backbone, data, Context(5)).terms["pgd_accuracy"] == 0  # not a step to check at
    backbone.brittle = True
    with pytest.warns(UserWarning, match="Catastrophic overfitting at step 6: accuracy under PGD fell from 90"):
        terms = objective(backbone, data | {"label": 1 - data["label"]}, Context(6)).terms
    assert terms["pgd_accuracy"] == 0 and terms["overfitting_alarm"] == 1
    copied = OverfittingAlarm(PGD(0.05, 0.02, 3), every=2)
    copied.load_state_dict(alarm.state_dict())
    assert copied.rang == 1 and copied.best == alarm.best
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(backbone, data | {"label": 1 - data["label"]}, Context(8))


def test_bad_arguments():
    with pytest.raises(RectifyError, match="every is 0"):
        OverfittingAlarm(every=0)
    with pytest.raises(RectifyError, match="drop is 1"):
        OverfittingAlarm(drop=1)
