"""EmpiricalRisk against a step written out with torch alone."""

import torch
import torch.nn.functional as F

from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import Context, CrossEntropy, EmpiricalRisk, Focal


def test_loss_gradient_and_target_are_those_of_a_plain_step():
    model = ResNet(4, 1, width=8)
    image, label = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    step = EmpiricalRisk(CrossEntropy(0.1))(model, {"image": image, "label": label}, Context())
    grads = torch.autograd.grad(step.loss, list(model.parameters()))
    loss = F.cross_entropy(model(image), label, label_smoothing=0.1)
    for mine, plain in zip(grads, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        assert torch.allclose(mine, plain, atol=1e-6)
    assert torch.equal(step.target, label)
    assert step.logits.shape == (6, 4)
    assert not step.terms


def test_base_loss_is_free():
    model = ResNet(4, 1, width=8).eval()
    image, label = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    step = EmpiricalRisk(Focal(2.0))(model, {"image": image, "label": label}, Context())
    p = model(image).double().softmax(1)[torch.arange(6), label]
    assert torch.allclose(step.loss.double(), (-((1 - p) ** 2) * p.log()).mean(), atol=1e-6)
