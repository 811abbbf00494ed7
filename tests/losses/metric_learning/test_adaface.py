"""AdaFace against its formula, sample by sample, and against ArcFace where the quality is fixed."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import AdaFace


def test_equals_its_formula_sample_by_sample():
    raw = 3 * torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    raw = raw.detach().requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 1])
    loss = AdaFace(3, 4, momentum=1.0).double()
    value = loss(raw, labels)
    lengths = raw.detach().norm(dim=1)
    mean, std = float(lengths.mean()), float(lengths.std())
    assert (float(loss.mean), float(loss.std)) == pytest.approx((mean, std))
    total = 0.0
    centres = F.normalize(loss.proxies.detach(), dim=1)
    for row, label, length in zip(raw, labels.tolist(), lengths.tolist(), strict=True):
        z = max(-1.0, min(1.0, 0.333 * (length - mean) / (std + 1e-3)))
        cosines = [(row @ centre) / row.norm() for centre in centres]
        angle = torch.acos(cosines[label]) - 0.4 * z
        cosines[label] = torch.cos(angle) - (0.4 + 0.4 * z)
        total += -torch.log_softmax(64 * torch.stack(cosines), 0)[label]
    torch.testing.assert_close(value, total / 6, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(value, raw)[0], torch.autograd.grad(total / 6, raw)[0], rtol=1e-8, atol=1e-12
    )


def test_without_concentration_it_is_a_fixed_additive_cosine_margin():
    from pytorch_metric_learning.losses import CosFaceLoss

    ours = AdaFace(5, 4, concentration=0.0)
    theirs = CosFaceLoss(5, 4, margin=0.4, scale=64)
    theirs.W.data.copy_(ours.proxies.detach().T)
    raw, labels = torch.randn(12, 4), torch.randint(5, (12,))
    torch.testing.assert_close(ours(raw, labels), theirs(raw, labels), rtol=1e-4, atol=1e-4)


def test_statistics_run_in_training_only_and_one_sample_gives_no_nan():
    loss = AdaFace(3, 4)
    loss(torch.ones(1, 4), torch.zeros(1).long())
    assert math.isfinite(loss.std) and float(loss.mean) == pytest.approx(0.99 * 20 + 0.01 * 2)
    before = loss.mean.clone()
    loss.eval()(torch.ones(3, 4), torch.zeros(3).long())
    assert torch.equal(loss.mean, before)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AdaFace(3, 4, momentum=0), "momentum is 0"),
        (lambda: AdaFace(3, 4, scale=-1), "scale is -1"),
        (lambda: AdaFace(3, 4)(torch.ones(2, 4), torch.tensor([0, 7])), "a label is 7"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(RectifyError, match=said):
        make()
