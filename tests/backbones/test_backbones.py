"""Own networks against timm's or against the same layers written out; the contract; wrong arguments."""

import re

import pytest
import torch
import torch.nn.functional as F

from lightning_rectify.backbones import MLP, Normalize, PlainNet, ResNet, TimmBackbone, check_backbone, named_layer
from lightning_rectify.errors import RectifyError


def settled(backbone):
    """In evaluation, with batch statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return backbone.eval()


def test_resnet18_equals_timms_with_a_small_stem():
    torch.manual_seed(0)
    ours = settled(ResNet(10, depth=18, width=64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    theirs = TimmBackbone("resnet18", 10, stem="cifar", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).eval()
    names = (
        (r"^stem\.0", "conv1"),
        (r"^stem\.1", "bn1"),
        (r"^classifier", "fc"),
        (r"shortcut", "downsample"),
        (r"norm", "bn"),
    )
    weights = {}
    for name, value in ours.state_dict().items():
        if not name.startswith("normalize"):
            for pattern, other in names:
                name = re.sub(pattern, other, name)
            weights[name] = value
    theirs.model.load_state_dict(weights)
    image = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(ours.features(image), theirs.features(image))
    torch.testing.assert_close(ours(image), theirs(image))
    assert ours.features(image).shape == (3, 512)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_an_mlp_equals_its_layers_written_out(hidden):
    torch.manual_seed(0)
    net = MLP(3, channels=2, size=4, hidden=hidden, mean=(0.4, 0.6), std=(0.2, 0.3)).double()
    image = torch.rand(5, 2, 4, 4, dtype=torch.float64)
    x = ((image - net.normalize.mean) / net.normalize.std).flatten(1)
    for number in range(1, len(hidden) + 1):
        linear = getattr(net, f"layer{number}")[0]
        x = (x @ linear.weight.T + linear.bias).clamp_min(0)
    torch.testing.assert_close(net.features(image), x)
    torch.testing.assert_close(net(image), x @ net.classifier.weight.T + net.classifier.bias)


@pytest.mark.parametrize("size", [8, 11, 24])
def test_plain_net_equals_its_layers_written_out(size):
    torch.manual_seed(0)
    net = settled(PlainNet(5, channels=2, size=size, width=4, mean=(0.4, 0.6), std=(0.2, 0.3))).double()
    image = torch.rand(3, 2, size, size, dtype=torch.float64)
    x = (image - net.normalize.mean) / net.normalize.std
    for layer in (net.layer1, net.layer2, net.layer3):
        convolution, norm, _ = layer
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), convolution.weight, stride=2)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        x = (x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]).clamp_min(0)
    torch.testing.assert_close(net.features(image), x.flatten(1))
    torch.testing.assert_close(net(image), x.flatten(1) @ net.classifier.weight.T + net.classifier.bias)


def test_plain_net_keeps_where_something_is():
    torch.manual_seed(0)
    net = PlainNet(5, size=16, width=4).eval()
    image = torch.zeros(1, 1, 16, 16)
    image[..., 2:5, 2:5] = 1
    moved = image.roll(8, dims=-1)
    assert not torch.allclose(net.features(image), net.features(moved), atol=1e-3)


@pytest.mark.parametrize("depth, stages", [(8, 3), (20, 3), (18, 4)])
def test_depth_counts_the_layers_with_weights(depth, stages):
    net = ResNet(10, depth=depth, width=4)
    counted = [
        m for n, m in net.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) and "shortcut" not in n
    ]
    assert len(counted) == depth and hasattr(net, f"layer{stages}") and not hasattr(net, f"layer{stages + 1}")


@pytest.mark.parametrize("norm", ["group", "none"])
def test_without_batch_statistics_a_sample_stands_alone(norm):
    net = ResNet(4, channels=1, depth=8, width=8, norm=norm).train()
    image = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(net(image)[:1], net(image[:1]), atol=1e-5, rtol=1e-4)


def test_bad_input():
    for make, said in (
        (lambda: ResNet(10, depth=19), "depth is 19; choose 18 or 6n + 2"),
        (lambda: ResNet(1), "classes is 1"),
        (lambda: ResNet(10, channels=3, mean=(0.5, 0.5), std=(1, 1)), "mean has 2 entries for 3 channels"),
        (lambda: Normalize((0.5,), (0.0,)), "each std above 0"),
        (lambda: PlainNet(5, size=4), "size is 4"),
        (lambda: PlainNet(5, size=16)(torch.rand(1, 1, 12, 12)), "images are (12, 12), size is 16"),
        (lambda: TimmBackbone("resnet81", 10), "timm has no model 'resnet81'"),
        (lambda: TimmBackbone("vit_tiny_patch16_224", 10, stem="cifar"), "does not fit vit_tiny_patch16_224"),
        (lambda: named_layer(ResNet(10), "layer9"), "no layer 'layer9'"),
        (lambda: check_backbone(torch.nn.Linear(2, 2)), "it lacks features, head"),
    ):
        with pytest.raises(RectifyError) as caught:
            make()
        assert said in str(caught.value)
