"""Captum's methods leave no trace and say what they cannot do; layer masking does not see what is missing."""

import copy

import pytest
import torch
from captum.attr import LRP, DeepLift
from explained import Net, case, trace
from torch import nn

from lightning_rectify.attribution import (
    deep_lift,
    deep_lift_shap,
    filled_from_neighbours,
    gradient_shap,
    input_gradient,
    kernel_shap,
    layer_masked_logits,
    lrp,
    map_infidelity,
    map_sensitivity,
)
from lightning_rectify.attribution.travelling_mask import _masked
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError


class Plain(nn.Module):
    """Activations are modules, and there is no layer for which Captum's LRP has no rule."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 3)

    def forward(self, image):
        return self.head(self.body(image).flatten(1))


def plain_net():
    torch.manual_seed(0)
    return Plain().double(), torch.rand(3, 2, 8, 8, dtype=torch.float64), torch.tensor([0, 2, 1])


def test_deep_lift_is_captums_and_complete():
    net, images, target = plain_net()
    before = trace(net)
    maps = deep_lift(net, images, target, 0.5)
    assert trace(net) == before
    captum = DeepLift(net).attribute(images.clone(), torch.full_like(images, 0.5), target=target)
    torch.testing.assert_close(maps, captum.sum(1).detach())
    with torch.no_grad():
        rise = (net(images) - net(torch.full_like(images, 0.5))).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(maps.sum((1, 2)), rise)
    starts = torch.stack((torch.zeros_like(images[0]), torch.ones_like(images[0])))
    both = (deep_lift(net, images, target, 0.0) + deep_lift(net, images, target, 1.0)) / 2
    torch.testing.assert_close(deep_lift_shap(net, images, target, starts), both)


def test_shapley_values_and_lrp():
    net, images, target = plain_net()
    before = trace(net)
    shap = kernel_shap(net, images, target, cells=2, samples=64)
    with torch.no_grad():
        rise = (net(images) - net(torch.zeros_like(images))).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(shap[:, 1::4, 1::4].sum((1, 2)), rise.float(), rtol=0.02, atol=1e-3)  # efficiency
    torch.testing.assert_close(kernel_shap(net, images, target, 2, 64), shap)
    start = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
    expected = gradient_shap(net, images, target, start, samples=200)
    torch.testing.assert_close(expected.sum((1, 2)), rise, rtol=0.2, atol=0.02)
    assert torch.equal(gradient_shap(net, images, target, start, samples=200), expected)
    assert not torch.equal(gradient_shap(net, images, target, start, samples=200, seed=1), expected)
    captum = LRP(copy.deepcopy(net)).attribute(images.clone(), target=target).sum(1).detach()
    torch.testing.assert_close(lrp(net, images, target), captum)
    assert trace(net) == before


def test_infidelity_of_a_linear_network_is_0_for_its_gradient():
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    images, target = torch.rand(2, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 2])
    before = trace(net)
    gradient = input_gradient(net, images, target, "keep")
    assert map_infidelity(net, images, target, gradient).max() < 1e-20
    assert map_infidelity(net, images, target, 0 * gradient).min() > 1e-4
    assert map_sensitivity(net, images, target, input_gradient).max() < 1e-12  # a constant gradient
    assert trace(net) == before


@pytest.mark.parametrize("options", [{"cells": 0}, {"samples": 0}])
def test_no_cells_and_no_samples_are_refused(options):
    with pytest.raises(RectifyError, match=r"kernel_shap: cells is .* give at least 1 each"):
        kernel_shap(*plain_net(), **options)


def test_targets_outside_and_layers_without_a_rule_are_refused():
    with pytest.raises(RectifyError, match="target holds 0 … 7"):
        deep_lift(plain_net()[0], torch.rand(2, 2, 8, 8).double(), torch.tensor([0, 7]))
    odd = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(RectifyError, match="lrp: Captum cannot explain Sequential"):
        lrp(odd, torch.rand(1, 1, 2, 2), torch.tensor([0]))
    assert not any(hasattr(module, "rule") for module in odd.modules())


@pytest.mark.parametrize("kind", [nn.GELU, nn.SiLU, nn.ReLU6, nn.Hardswish, nn.Mish])
def test_activations_without_a_rule_are_refused(kind):
    images, target = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), kind(), nn.Linear(4, 2))
    with pytest.raises(RectifyError, match=f"deep_lift: Captum has no rule for {kind.__name__} in Sequential"):
        deep_lift(net, images, target)
    with pytest.raises(RectifyError, match=f"deep_lift_shap: Captum has no rule for {kind.__name__}"):
        deep_lift_shap(net, images, target, torch.rand(2, 1, 4, 4))


NETS = {
    "functional mean, stride, groups, norm": lambda: Net().double().eval(),
    "residual": lambda: ResNet(4, channels=3, depth=8, width=4).double().eval(),
    "max pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)).double().eval(),
    "padded average pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(3, 2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 4)).double().eval(),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_what_is_missing_has_no_influence_and_a_whole_image_is_itself(name):
    net = NETS[name]()
    images = torch.rand(3, 3, 12, 14, dtype=torch.float64)
    known = torch.ones(3, 12, 14)
    with torch.no_grad():
        torch.testing.assert_close(layer_masked_logits(net, images, known), net(images))
    known[:, 2:7, 5:11] = 0
    before = trace(net)
    masked = layer_masked_logits(net, images, known)
    assert trace(net) == before and type(masked) is torch.Tensor
    other = torch.where(known[:, None] > 0, images, 100 * torch.randn_like(images))
    assert torch.equal(layer_masked_logits(net, other, known), masked)
    with torch.no_grad():
        assert not torch.allclose(net(images * known[:, None]), masked)


def test_a_head_that_flattens_sees_0_where_the_image_is_missing_and_no_shift():
    torch.manual_seed(0)
    conv, norm, head = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3 * 64, 4)
    norm.running_mean.normal_()
    nn.init.constant_(norm.bias, 5.0)
    net = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), head).double().eval()
    images = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    known = torch.zeros(2, 8, 8)
    known[:, 1:4, 2:6] = 1
    with torch.no_grad():
        filled = filled_from_neighbours(images, known[:, None].double(), 3)
        reached = torch.zeros(2, 1, 8, 8)
        reached[:, :, 0:5, 1:7] = 1
        expected = head((norm(conv(filled)).relu() * reached).flatten(1))
        torch.testing.assert_close(layer_masked_logits(net, images, known), expected)
        nothing = net(_masked(images * 0, torch.zeros(2, 1, 8, 8, dtype=torch.float64)))
        assert torch.equal(nothing.as_subclass(torch.Tensor), head(torch.zeros(2, 192, dtype=torch.float64)))
    other = torch.where(known[:, None] > 0, images, 7.0)
    assert torch.equal(layer_masked_logits(net, other, known), layer_masked_logits(net, images, known))


class Largest(nn.Module):
    """All values are below 0, so that a 0 for what is missing would be the largest."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.conv = pool, nn.Conv2d(2, 3, 1)
        nn.init.constant_(self.conv.bias, -9.0)

    def forward(self, image):
        return self.pool(self.conv(image)).flatten(1)


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(6), lambda x: x.amax((2, 3)), lambda x: torch.amax(x, (-1, -2))]
)
def test_what_is_missing_is_no_maximum(pool):
    net, images, mask = Largest(pool), torch.rand(2, 2, 6, 6), torch.rand(2, 6, 6) > 0.4
    with torch.no_grad():
        values = net.conv(images)
    expected = torch.stack([value[:, kept].amax(1) for value, kept in zip(values, mask, strict=True)])
    torch.testing.assert_close(layer_masked_logits(net, images, mask), expected)


def test_a_constant_image_stays_itself_however_little_of_it_is_known():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    images = torch.full((2, 1, 9, 9), 0.7, dtype=torch.float64)
    known = torch.zeros(2, 9, 9)
    known[:, 3:6, 3:6] = 1
    with torch.no_grad():
        whole, black = net(images), net(images * known[:, None])
    torch.testing.assert_close(layer_masked_logits(net, images, known), whole)
    assert not torch.allclose(black, whole)


def test_missing_pixels_take_the_mean_of_their_known_neighbours():
    values = torch.tensor([[[[1.0, 9.0, 9.0, 9.0, 9.0]]]])
    known = torch.tensor([[[[1.0, 0.0, 0.0, 0.0, 1.0]]]])
    assert filled_from_neighbours(values, known, 1).flatten().tolist() == [1, 1, 0, 9, 9]
    assert filled_from_neighbours(values, known, 2).flatten().tolist() == [1, 1, 5, 9, 9]
    square = torch.rand(1, 2, 3, 3)
    hole = torch.ones(1, 1, 3, 3)
    hole[..., 1, 1] = 0
    expected = (square.sum((2, 3)) - square[..., 1, 1]) / 8
    torch.testing.assert_close(filled_from_neighbours(square, hole, 1)[..., 1, 1], expected)


def test_bad_masks_are_one_sentence():
    net, images, _ = case()
    with pytest.raises(RectifyError, match="do not fit images"):
        layer_masked_logits(net, images, torch.ones(3, 5, 5))
    with pytest.raises(RectifyError, match="keeps no pixel"):
        layer_masked_logits(net, images, torch.zeros(10, 12))
