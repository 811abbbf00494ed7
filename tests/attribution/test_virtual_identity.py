"""NormGrad against the weight gradient of a convolution that is really there, location by location."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from explained import case, trace
from torch import nn

from lightning_rectify.attribution import (
    class_sensitivity,
    grad_cam,
    last_spatial_layer,
    linear_approximation,
    norm_grad,
    norm_grad_layers,
    spatial_layers,
)
from lightning_rectify.backbones import ResNet, TimmBackbone
from lightning_rectify.errors import RectifyError


def per_location(model, images, target, layer, conv):
    """Norms (B, h, w) of each location's share of the gradient of `conv.weight`, by one backward pass a location.

    `conv` stands in the network after `layer` or is it; its output is y = conv(x), so that the share of location u is
    the gradient of Σ_c y_cu·g_cu with g held.
    """
    model.eval()
    seen = {}
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
    model(images).gather(1, target[:, None]).sum().backward()
    handle.remove()
    y = conv(seen["x"].detach())
    gradient = torch.autograd.grad(model_tail(model, layer, y, target), y)[0]
    batch, _, height, width = y.shape
    norms = torch.zeros(batch, height, width, dtype=y.dtype)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                y = conv(seen["x"][b : b + 1].detach())
                share = (y[0, :, row, column] * gradient[b, :, row, column]).sum()
                norms[b, row, column] = torch.autograd.grad(share, conv.weight)[0].norm()
    return norms


def model_tail(model, layer, output, target):
    """The target's logit when `layer` gives `output`."""
    handle = layer.register_forward_hook(lambda module, inputs, old: output)
    logits = model(torch.zeros(len(target), *SHAPE, dtype=output.dtype))
    handle.remove()
    return logits.gather(1, target[:, None]).sum()


SHAPE = (3, 10, 12)
FLAT = nn.Sequential(nn.Flatten(), nn.Linear(360, 4).double())


def identity_conv(channels, size, dtype):
    conv = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False).to(dtype)
    nn.init.dirac_(conv.weight)
    return conv


@pytest.mark.parametrize(("form", "size"), [("identity", 1), ("identity3", 3)])
def test_norm_grad_is_the_gradient_norm_of_an_inserted_identity_convolution(form, size):
    net, images, target = case()
    inserted = identity_conv(8, size, images.dtype)
    whole = nn.Sequential(net.deep, inserted)
    net.deep = whole
    expected = per_location(net, images, target, inserted, inserted)
    net.deep = whole[0]
    maps = norm_grad(net, images, target, "deep", form)
    torch.testing.assert_close(maps, F.interpolate(expected[:, None], (10, 12), mode="bilinear").squeeze(1))


def test_the_own_form_is_the_gradient_norm_of_the_convolution_itself_with_stride_and_groups():
    net, images, target = case()
    expected = per_location(net, images, target, net.deep[0], net.deep[0])
    maps = norm_grad(net, images, target, "deep.0", "conv")
    torch.testing.assert_close(maps, F.interpolate(expected[:, None], (10, 12), mode="bilinear").squeeze(1))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
def test_own_form_at_the_first_layer_with_other_paddings(padding_mode):
    net, images, target = case()
    net.conv = nn.Conv2d(3, 6, 3, padding="same", dilation=2, padding_mode=padding_mode).double()
    expected = per_location(net, images, target, net.conv, net.conv)
    torch.testing.assert_close(norm_grad(net, images, target, "conv", "conv"), expected)


def test_selective_and_linear_forms_by_hand():
    net, images, target = case()
    net.eval()
    activation = net.norm(net.conv(images)).detach().requires_grad_()
    logits = net.linear(net.deep(F.relu(activation)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), activation)
    product = activation.detach() * gradient
    # the next layer overwrites this one's output in place
    torch.testing.assert_close(norm_grad(net, images, target, "norm", "selective"), product.clamp_min(0).norm(dim=1))
    torch.testing.assert_close(linear_approximation(net, images, target, "norm"), product.sum(1))
    torch.testing.assert_close(
        norm_grad(net, images, target, "norm"), activation.detach().norm(dim=1) * gradient.norm(dim=1)
    )


def test_linear_approximation_equals_captum():
    from captum.attr import LayerGradientXActivation

    net, images, target = case()
    net.eval()
    expected = LayerGradientXActivation(net, net.deep).attribute(images, target=target).sum(1, keepdim=True).detach()
    expected = F.interpolate(expected, (10, 12), mode="bilinear").squeeze(1)
    torch.testing.assert_close(linear_approximation(net, images, target, "deep"), expected)


@pytest.mark.parametrize("form", ["identity", "identity3", "selective"])
def test_all_layers_in_one_pass_equal_each_on_its_own(form):
    net, images, target = case()
    layers = ["conv", "norm", "act", "deep.0", "deep"]
    before = trace(net)
    calls = []
    handle = net.linear.register_forward_hook(lambda *_: calls.append(1))
    together = norm_grad_layers(net, images, target, layers, form)
    assert len(calls) == 1
    handle.remove()
    assert list(together) == layers
    for layer in layers:
        torch.testing.assert_close(together[layer], norm_grad(net, images, target, layer, form))
    assert trace(net) == before


def test_default_layers_are_the_stages():
    resnet = ResNet(10, channels=1, depth=8, width=8)
    assert spatial_layers(resnet, torch.rand(1, 1, 16, 16)) == ["stem", "layer1", "layer2", "layer3"]
    net, images, target = case()
    assert list(norm_grad_layers(net, images, target)) == ["conv", "deep"]


def test_a_layer_that_runs_twice_is_explained_at_its_last_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, image):
            return self.conv(self.conv(image).tanh()).square().mean((2, 3))

    net, images = Twice().double(), torch.rand(2, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        last = net.conv(net.conv(images).tanh())
    gradient = torch.zeros_like(last)
    gradient[:, 1] = 2 * last[:, 1] / 25
    maps = norm_grad(net, images, torch.tensor([1, 1]), "conv")
    torch.testing.assert_close(maps, last.norm(dim=1) * gradient.norm(dim=1))


def test_a_vision_transformer_is_explained_on_its_patch_grid():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    net = TimmBackbone("vit_tiny_patch16_224", classes=5, options=options).eval()
    images, target = torch.rand(2, 3, 32, 32), torch.tensor([1, 4])
    kept = {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["a"] = output

    handle = net.model.blocks[0].register_forward_hook(keep)
    net(images).gather(1, target[:, None]).sum().backward()
    handle.remove()
    a, g = kept["a"].detach()[:, 1:], kept["a"].grad[:, 1:]  # without the class token, then row by row
    expected = (a.norm(dim=2) * g.norm(dim=2)).view(2, 1, 4, 4)
    maps = norm_grad(net, images, target, "model.blocks.0")
    torch.testing.assert_close(maps, F.interpolate(expected, (32, 32), mode="bilinear").squeeze(1))
    assert grad_cam(net, images, target, "model.blocks.1.norm1").shape == (2, 32, 32)
    blocks = [name for name in spatial_layers(net, images) if name.startswith("model.blocks.")]
    assert last_spatial_layer(net, images[:1]) == blocks[-1]  # tokens: heads of attention are no pixels


def test_attention_norms_and_heads_are_no_spatial_layer():
    # 17 tokens of head size 16 on an image of 32x32: the shape of the heads alone would not tell
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "qk_norm": True}
    net = TimmBackbone("vit_tiny_patch16_224", classes=5, options=options).eval()
    shapes = []
    net.model.blocks[0].attn.k_norm.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape)))
    assert last_spatial_layer(net, torch.rand(1, 3, 32, 32)) is None
    assert set(shapes) == {(1, 2, 17, 16)}
    again = [nn.Conv2d(3, 64, 8, 8), nn.Flatten(2), nn.Linear(16, 16), nn.Unflatten(2, (4, 4))]
    last = nn.Sequential(*again, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert last_spatial_layer(last, torch.rand(1, 3, 32, 32)) == "3"  # tokens that become a map again


def test_one_image_and_grey_images():
    for channels in (1, 4):
        net, images, target = case(channels=channels)
        whole = norm_grad(net, images, target, "deep")
        torch.testing.assert_close(norm_grad(net, images[:1], target[:1], "deep"), whole[:1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n, x, t: norm_grad(n, x, t, "depe"), "no layer 'depe'. Did you mean deep"),
        (lambda n, x, t: norm_grad(n, x, t, "linear"), "NormGrad needs an output"),
        (lambda n, x, t: norm_grad(n, x, t, "deep", "identity2"), "form has no 'identity2'. Did you mean identity"),
        (lambda n, x, t: norm_grad(n, x, t, "act", "conv"), "form conv needs a Conv2d, the layer is a ReLU"),
        (lambda n, x, t: norm_grad(n, x[:, :1], t, "deep"), "does not take images with 1 channels"),
        (lambda n, x, t: norm_grad(n, torch.cat((x, x[:, :1]), 1), t, "deep"), "does not take images with 4 channels"),
        (lambda n, x, t: norm_grad(n, x[:0], t[:0], "deep"), "a batch of no images"),
        (lambda n, x, t: norm_grad_layers(FLAT, x, t),
         "no layer with a spatial output"),
        (lambda n, x, t: norm_grad_layers(n, torch.cat((x, x[:, :1]), 1), t), "does not take images with 4 channels"),
        (lambda n, x, t: class_sensitivity(n, x[:, :1]), "does not take images with 1 channels"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_no_hook(call, words):
    net, images, target = case()
    before = trace(net)
    with pytest.raises(RectifyError, match=words):
        call(net, images, target)
    assert trace(net) == before


def vision_transformer():
    net = torchvision.models.VisionTransformer(32, 8, 3, 2, 24, 48, num_classes=4)
    torch.nn.init.normal_(net.heads.head.weight)
    return net


TRANSFORMERS = {
    "torchvision": (vision_transformer, ["conv_proj", *(f"encoder.layers.encoder_layer_{place}" for place in (0, 1))]),
    "ours": (
        lambda: TimmBackbone("test_vit", 4, options={"img_size": 32}),
        ["model.patch_embed", *(f"model.blocks.{place}" for place in range(5))],
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_layers_of_a_transformer_are_its_blocks_but_the_last(name):
    make, layers = TRANSFORMERS[name]
    torch.manual_seed(0)
    net, images, target = make().eval(), torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    assert spatial_layers(net, images) == layers and last_spatial_layer(net, images) == layers[-1]
    maps = norm_grad_layers(net, images, target)
    assert list(maps) == layers and all(values.flatten(1).any(1).all() for values in maps.values())
    assert not any(values.isnan().any() for values in class_sensitivity(net, images).values())
    last, found = layers[-1][:-1] + str(int(layers[-1][-1]) + 1), {}
    assert not norm_grad(net, images, target, last).any()  # a class token leaves the others without gradient
    handle = dict(net.named_modules())[layers[-1]].register_forward_hook(lambda m, i, o: found.update(output=o))
    (gradient,) = torch.autograd.grad(net(images).gather(1, target[:, None]).sum(), [found["output"]])
    handle.remove()
    grid = (found["output"].norm(dim=2) * gradient.norm(dim=2))[:, 1:]
    grid = grid.view(2, 1, round(grid.shape[1] ** 0.5), -1)
    expected = torch.nn.functional.interpolate(grid, (32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(maps[layers[-1]], expected)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_where_a_layer_norm_alone_reads_the_patches_their_linear_part_is_0_and_no_noise(name):
    make, layers = TRANSFORMERS[name]
    torch.manual_seed(0)
    net, images, target = make().eval(), torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    block = dict(net.named_modules())[layers[-1]]
    with torch.no_grad():
        logits = net(images)
        handle = block.register_forward_hook(lambda m, i, o: torch.cat((o[:, :1], 1.1 * o[:, 1:]), 1))
        longer = net(images)  # the patches' length has no influence: its derivative, which is the map, is 0
        handle.remove()
    torch.testing.assert_close(longer, logits, rtol=1e-3, atol=1e-4)
    assert not linear_approximation(net, images, target, layers[-1]).any()
    assert linear_approximation(net, images, target, layers[-2]).flatten(1).any(1).all()


def test_channels_last_are_turned():
    torch.manual_seed(0)
    net = torchvision.models.SwinTransformer([2, 2], 12, [1, 1], [1, 1], [2, 2], num_classes=4).eval()
    images, target, found = torch.rand(2, 3, 32, 32), torch.tensor([1, 2]), {}
    handle = net.features.register_forward_hook(lambda m, i, o: found.update(output=o))
    (gradient,) = torch.autograd.grad(net(images).gather(1, target[:, None]).sum(), [found["output"]])
    handle.remove()
    assert found["output"].shape == (2, 8, 8, 24)
    grid = (found["output"].norm(dim=3) * gradient.norm(dim=3))[:, None]
    expected = torch.nn.functional.interpolate(grid, (32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(norm_grad(net, images, target, "features"), expected)


def test_a_transformer_with_channels_last_everywhere_is_explained_at_its_last_map():
    torch.manual_seed(0)
    options = {
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 12,
        "depths": (1, 1),
        "num_heads": (1, 1),
    }
    net = TimmBackbone("swin_tiny_patch4_window7_224", 4, options=options).eval()
    images, target, found = torch.rand(2, 3, 32, 32), torch.tensor([1, 2]), {}
    layer = last_spatial_layer(net, images)
    assert layer == "model.norm"
    handle = net.model.norm.register_forward_hook(lambda m, i, o: found.update(output=o))
    (gradient,) = torch.autograd.grad(net(images).gather(1, target[:, None]).sum(), [found["output"]])
    handle.remove()
    assert found["output"].shape == (2, 8, 8, 24)
    cam = (gradient.mean((1, 2), keepdim=True) * found["output"]).sum(3).relu()[:, None]
    expected = F.interpolate(cam, (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(grad_cam(net, images, target, layer), expected)
