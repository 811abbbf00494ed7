"""DeepLIFT's contributions sum to the change of the logit and LRP's are gradient times input, in any forward."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LRP, DeepLift
from captum.attr._utils.custom_modules import Addition_Module
from explained import case, trace
from torch import nn

from lightning_rectify.attribution import deep_lift, deep_lift_shap, lrp
from lightning_rectify.backbones import PlainNet, ResNet, TimmBackbone
from lightning_rectify.errors import RectifyError


class Functions(nn.Module):
    """Functions and a shared module, pools that overlap and overhang, a sum of both sides of a ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(8, 6, 3, bias=False)
        self.norm, self.act, self.head = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, image):
        b, c, h, _ = image.shape
        if c != 3 or h < 4:
            raise ValueError("size")
        x = self.first((image - 0.3) / 0.2)
        y = self.second(F.relu(x)) + x  # the activation comes first, as in a pre-activation ResNet
        y = F.max_pool2d(self.act(y), 3, 2, padding=1)
        y = torch.cat([y, F.dropout(y, training=self.training) * 0.5], 1)
        y = F.max_pool2d(self.act(self.norm(self.third(y))), 3, 2, ceil_mode=True)
        return self.head(y.mean((2, 3)).view(b, -1))


def prepared(make, size=16):
    """A network in float64 whose statistics and biases are no zeros and ones, images and targets."""
    torch.manual_seed(0)
    net = make().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    return net, torch.rand(2, 3, size, size, dtype=torch.float64), torch.tensor([1, 3])


NETS = {
    "resnet": lambda: ResNet(4, depth=8, width=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)),
    "resnet without norm": lambda: ResNet(4, depth=8, width=4, norm="none"),
    "plain": lambda: PlainNet(4, channels=3, size=16, width=4),
    "functions": Functions,
    "concatenations": lambda: torchvision.models.DenseNet(4, (2, 2), 4, num_classes=4),
    "timm": lambda: TimmBackbone("test_resnet", 4),
}


def first_input(name, net, images):
    """What the first layer sees, and the network from there on."""
    if name == "functions":
        return (images - 0.3) / 0.2, lambda x: net(x * 0.2 + 0.3)
    if not hasattr(net, "normalize"):
        return images, net
    mean, std = net.normalize.mean, net.normalize.std
    return (images - mean) / std, lambda x: net(x * std + mean)


@pytest.mark.parametrize("name", NETS)
def test_the_sums_and_the_gradient(name):
    net, images, target = prepared(NETS[name], 32 if name == "timm" else 16)
    start = torch.rand_like(images)
    before = trace(net)
    with torch.no_grad():
        rise = (net(images) - net(start)).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(deep_lift(net, images, target, start).sum((1, 2)), rise)
    seen, rest = first_input(name, net, images)
    leaf = seen.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rest(leaf).gather(1, target[:, None]).sum(), leaf)
    torch.testing.assert_close(lrp(net, images, target, "keep"), seen * gradient, rtol=1e-4, atol=1e-6)
    assert trace(net) == before


def test_contributions_to_sum_in_single_precision():
    net, images, target = prepared(NETS["timm"], 48)
    net, images = net.float(), images.float()
    exact = deep_lift(net.double(), images.double(), target)
    torch.testing.assert_close(deep_lift(net.float(), images, target).double(), exact, rtol=1e-2, atol=1e-5)


class Modules(nn.Module):
    """ResNet-8 without norm, rewritten by hand as Captum asks: each activation and sum a module of its own."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(6))
        self.sums = nn.ModuleList(Addition_Module() for _ in range(3))

    def forward(self, x):
        net = self.net
        x = net.stem[2](net.stem[0](x))
        for place, stage in enumerate((net.layer1, net.layer2, net.layer3)):
            (block,) = stage
            inner = block.conv2(self.acts[2 * place](block.conv1(x)))
            beside = block.shortcut[0](x) if isinstance(block.shortcut, nn.Sequential) else x
            x = self.acts[2 * place + 1](self.sums[place](inner, beside))
        return net.classifier(net.pool(x).flatten(1))


def test_equal_to_captum_on_a_network_rewritten_by_hand():
    net, images, target = prepared(lambda: ResNet(4, depth=8, width=4, norm="none", mean=(0.0,), std=(1.0,)))
    hand = Modules(net)
    for module in hand.modules():  # Captum has no rule for an identity
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Identity) or name == "normalize":
                setattr(module, name, nn.Dropout(0.0))
    hand.eval()
    expected = DeepLift(hand).attribute(images.clone(), torch.full_like(images, 0.5), target=target).detach()
    torch.testing.assert_close(deep_lift(net, images, target, 0.5, "keep"), expected)
    expected = LRP(hand).attribute(images.clone(), target=target).detach()
    torch.testing.assert_close(lrp(net, images, target, "keep"), expected)


def test_relevance_is_conserved_without_biases():
    net, images, target = prepared(lambda: ResNet(4, depth=14, width=4, norm="none"))
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        logit = net(images).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(lrp(net, images, target).sum((1, 2)), logit, rtol=1e-5, atol=1e-9)


def test_the_mean_over_baselines_is_complete_too():
    net, images, target = prepared(Functions)
    starts = torch.rand(3, *images.shape[1:], dtype=torch.float64)
    each = torch.stack([deep_lift(net, images, target, start) for start in starts]).mean(0)
    torch.testing.assert_close(deep_lift_shap(net, images, target, starts), each)


class Gate(nn.Module):
    """A product of two branches, which no rule of Captum splits."""

    def __init__(self):
        super().__init__()
        self.body, self.gate, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, image):
        return self.head((self.body(image) * torch.sigmoid(self.gate(image))).mean((2, 3)))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.body, self.head = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 4)

    def forward(self, image):
        tokens = self.body(image).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))


class Looks(nn.Module):
    """Which activation runs depends on what stands in the image: no recording holds for another one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        hidden = self.body(image)
        return (F.relu(hidden) if bool(image.mean() > -1) else hidden).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "method", "words"),
    [
        (lambda: ResNet(4, depth=8, width=8, norm="group"), deep_lift, r"the logit changes by .* \(GroupNorm\)"),
        (
            lambda: ResNet(4, depth=8, width=8, norm="group"),
            lrp,
            "ResNet: it has no rule for GroupNorm; use",
        ),
        (
            lambda: torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=4),
            lrp,
            "lrp: Captum cannot explain VisionTransformer: it has no rule for LayerNorm; use integrated_gradients",
        ),
        (Attentive, lrp, "cannot explain Attentive: it has no rule for MultiheadAttention"),
        (Gate, deep_lift, "Captum has no rule for an operation of Gate; use integrated_gradients"),
        (Gate, lrp, "cannot explain Gate: it has no rule for mul"),
        (Looks, deep_lift, "Captum has no rule for an operation of Looks"),
        (Looks, lrp, "lrp: Captum cannot explain Looks: "),
        (lambda: TimmBackbone("vit_tiny_patch16_224", 4, options={"img_size": 16}), deep_lift, "no rule for GELU"),
        (lambda: TimmBackbone("vit_tiny_patch16_224", 4, options={"img_size": 16}), lrp, "lrp: Captum cannot explain"),
    ],
)
def test_what_has_no_rule_is_refused(make, method, words):
    net, images, target = prepared(make)
    before = trace(net)
    with pytest.raises(RectifyError, match=words):
        method(net, images, target)
    assert trace(net) == before


def test_a_baseline_that_does_not_fit_is_one_sentence():
    net, images, target = case()
    with pytest.raises(RectifyError, match=r"deep_lift: baseline \(5, 5\) does not fit images"):
        deep_lift(net, images, target, torch.zeros(5, 5))
