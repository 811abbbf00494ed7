"""Input gradient and Grad-CAM against hand computation and Captum; nothing is left behind in the model."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from torch import nn

from lightning_rectify.attribution import find_layer, grad_cam, input_gradient, last_spatial_layer
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError


class Net(nn.Module):
    """Batch normalisation, dropout, an in-place activation and a functional pooling at the end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.deep = nn.Sequential(nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Tanh())
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Conv2d(1, 1, 1)
        self.linear = nn.Linear(5, 4)

    def forward(self, image):
        hidden = self.deep(self.act(self.norm(self.conv(image))))
        return self.linear(self.drop(hidden.mean((2, 3))))


@pytest.fixture
def case():
    net = Net()
    net.norm.running_mean.normal_()
    return net, torch.rand(3, 3, 10, 12), torch.tensor([0, 3, 1])


def test_input_gradient_by_finite_differences(case):
    net, images, target = case
    net, images = net.double().eval(), images.double()
    gradient = input_gradient(net, images, target, channels="keep")
    step = 1e-6
    for b, c, y, x in [(0, 0, 0, 0), (1, 2, 5, 7), (2, 1, 9, 11)]:
        moved = images.clone()
        moved[b, c, y, x] += step
        with torch.no_grad():
            slope = (net(moved)[b, target[b]] - net(images)[b, target[b]]) / step
        assert gradient[b, c, y, x] == pytest.approx(slope.item(), abs=1e-5)
    assert torch.equal(input_gradient(net, images, target), gradient.abs().amax(1))
    assert torch.equal(input_gradient(net, images, target, channels="sum"), gradient.sum(1))


def test_input_gradient_equals_captum(case):
    net, images, target = case
    expected = Saliency(net.eval()).attribute(images.clone(), target=target).amax(1)
    torch.testing.assert_close(input_gradient(net, images, target), expected)


def test_grad_cam_by_hand():
    # logits = [mean a, -mean a] of one 2x2 map a = 2x: weight dy0/da averaged over pixels = 1/4, so map = ReLU(x/2)
    class Hand(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)
            self.conv.weight.data.fill_(2.0)

        def forward(self, image):
            mean = self.conv(image).mean((1, 2, 3))
            return torch.stack([mean, -mean], 1)

    image = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    maps = grad_cam(Hand(), image.expand(2, 1, 2, 2), torch.tensor([0, 1]), "conv")
    assert maps.tolist() == [[[0.5, 0.0], [1.5, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]


@pytest.mark.parametrize("layer", ["conv", "norm", "act", "deep", "deep.0"])
def test_grad_cam_equals_captum(case, layer):
    net, images, target = case
    captum = LayerGradCam(net.eval(), find_layer(net, layer)[1])
    if layer == "norm":  # Captum's hook sees the output after the in-place ReLU has overwritten it: use a plain one
        net.act.inplace = False
    expected = captum.attribute(images, target=target, relu_attributions=True).detach()
    expected = F.interpolate(expected, (10, 12), mode="bilinear", align_corners=False).squeeze(1)
    net.act.inplace = True
    maps = grad_cam(net, images, target, layer)
    assert maps.shape == (3, 10, 12)
    assert maps.max() > 0
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(grad_cam(net, images, target, find_layer(net, layer)[1]), expected)


@pytest.mark.parametrize("method", [input_gradient, lambda *case: grad_cam(*case, "deep")])
def test_a_map_of_one_image_is_that_of_the_batch(case, method):
    net, images, target = case
    net.train()  # the functions switch to eval themselves
    whole = method(net, images, target)
    for b in range(3):
        torch.testing.assert_close(method(net, images[b : b + 1], target[b : b + 1]), whole[b : b + 1])


@pytest.mark.parametrize("method", [input_gradient, lambda *case: grad_cam(*case, "act")])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_around_it_and_leaves_no_trace(case, method, mode):
    net, images, target = case
    expected = method(net, images, target)
    net.train()
    net.drop.eval()
    net.conv.weight.requires_grad_(False)
    net.linear.weight.grad = torch.ones_like(net.linear.weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    with mode():
        inside = method(net, images * 1, target * 1)
    assert torch.equal(inside, expected)
    assert not inside.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [net.training, net.norm.training, net.drop.training] == [True, True, False]
    assert [net.conv.weight.requires_grad, net.conv.bias.requires_grad] == [False, True]
    assert net.linear.weight.grad.eq(1).all() and net.linear.bias.grad is None
    assert not any(module._forward_hooks for module in net.modules())


def test_the_last_spatial_layer_is_the_last_with_a_map(case):
    net, images, _ = case
    assert last_spatial_layer(net, images) == "deep"
    assert last_spatial_layer(ResNet(10, 3), images) == "layer3"
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert last_spatial_layer(plain, images) == "1"
    assert last_spatial_layer(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(360, 2)), images) is None
    assert not any(module._forward_hooks for module in plain.modules())


def test_a_layer_is_found_without_the_prefix_backbone(case):
    holder = nn.Module()
    holder.backbone = case[0]
    assert find_layer(holder, "deep.0") == ("backbone.deep.0", case[0].deep[0])


def test_hooks_see_a_compiled_model(case):
    net, images, target = case
    expected = grad_cam(net, images, target, "deep")
    net.compile(backend="eager")
    net.eval()(images)  # compiled before the hook comes
    torch.testing.assert_close(grad_cam(net, images, target, "deep"), expected)
    wrapped = torch.compile(Net(), backend="eager")
    wrapped._orig_mod.load_state_dict(net.state_dict())
    wrapped.eval()(images)
    torch.testing.assert_close(grad_cam(wrapped, images, target, "_orig_mod.deep"), expected)


class _Tuple(nn.Linear):
    def forward(self, image):
        return (super().forward(image.flatten(1)),)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net, x, t: grad_cam(net, x, t, "depe"), "no layer 'depe'. Did you mean deep"),
        (lambda net, x, t: grad_cam(net, x, t, nn.ReLU()), "is no part of Net"),
        (lambda net, x, t: grad_cam(net, x, t, "linear"), r"Grad-CAM needs an output .* linear gives \(3, 4\)"),
        (lambda net, x, t: grad_cam(net, x, t, "unused"), "unused does not run"),
        (lambda net, x, t: input_gradient(net, x, t + 1), "target holds 1 … 4, but the model has classes 0 … 3"),
        (lambda net, x, t: input_gradient(net, x, t[:2]), r"target must be integers of shape \(3,\)"),
        (lambda net, x, t: input_gradient(net, (x * 255).byte(), t), "float images"),
        (lambda net, x, t: input_gradient(net, x[0], t), "float images"),
        (lambda net, x, t: input_gradient(net.deep, x.repeat(1, 2, 1, 1), t), "must return logits"),
        (lambda net, x, t: input_gradient(_Tuple(360, 4), x, t), "returned tuple"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_hook(case, call, words):
    net, images, target = case
    with pytest.raises(RectifyError, match=words):
        call(net, images, target)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_a_pooled_layer_has_no_map():
    with pytest.raises(RectifyError, match=r"Grad-CAM needs an output \(B, c, h, w\), but pool gives \(2, 64, 1, 1\)"):
        grad_cam(ResNet(4), torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), "pool")
