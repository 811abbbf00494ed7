"""Base losses against their formulas in float64 on explicit one-hot targets, and at the ends of the range."""

import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import BinaryCrossEntropy, CrossEntropy, Focal


@pytest.fixture
def logits():
    return torch.randn(20, 5) * 4


@pytest.fixture
def target():
    return torch.arange(20) % 5


def soft(target, smoothing):
    return (1 - smoothing) * torch.nn.functional.one_hot(target, 5).double() + smoothing / 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(logits, target, smoothing):
    expected = -(soft(target, smoothing) * logits.double().log_softmax(1)).sum(1)
    torch.testing.assert_close(CrossEntropy(smoothing)(logits, target).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(logits, target, smoothing):
    p, t = logits.double().sigmoid(), soft(target, smoothing)
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).sum(1)
    result = BinaryCrossEntropy(smoothing)(logits, target)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(logits, target, gamma):
    p = logits.double().softmax(1).gather(1, target[:, None]).squeeze(1)
    expected = -((1 - p) ** gamma) * p.log()
    torch.testing.assert_close(Focal(gamma)(logits, target).double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy(), Focal(0.5), Focal(2.0)])
def test_certain_predictions_have_finite_gradients(loss):
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    value = loss(logits, torch.tensor([0, 0]))
    value.sum().backward()
    assert value[0].item() == pytest.approx(0, abs=1e-6)
    assert value[1] > 100
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "build, key",
    [
        (lambda: CrossEntropy(1.0), "smoothing"),
        (lambda: BinaryCrossEntropy(-0.1), "smoothing"),
        (lambda: Focal(-1.0), "gamma"),
    ],
)
def test_bad_arguments_name_themselves(build, key):
    with pytest.raises(RectifyError, match=key):
        build()
