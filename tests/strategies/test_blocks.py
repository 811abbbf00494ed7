"""Which modules FSDP2 gathers at once."""

import pytest

from lightning_rectify.backbones import ResNet
from lightning_rectify.strategies import blocks
from lightning_rectify.strategies.fsdp2 import _groups


def names(module, chosen):
    table = {inner: name for name, inner in module.named_modules()}
    return [table[inner] for inner in chosen]


def test_residual_blocks_of_our_resnet():
    net = ResNet(classes=4, depth=14, width=8)
    expected = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    assert names(net, blocks(net)) == expected
    assert names(net, _groups(net)) == ["stem", *expected, "classifier"]


@pytest.mark.parametrize(
    ("model", "count", "others"),
    [
        ("resnet18", 8, {"conv1", "bn1", "fc"}),
        ("vit_tiny_patch16_224", 12, {"patch_embed", "norm", "head"}),
        ("convnext_atto", 12, {"stem", "head"}),
    ],
)
def test_blocks_of_timm_models(model, count, others):
    import timm

    net = timm.create_model(model, num_classes=4)
    assert len(blocks(net)) == count
    grouped = names(net, _groups(net))
    assert others <= set(grouped)
    held = {id(p) for group in _groups(net) for p in group.parameters()}
    # what no group holds stays with the root: class token and position embedding, not whole layers
    rest = [name for name, p in net.named_parameters() if id(p) not in held]
    assert all("." not in name for name in rest) or model == "convnext_atto"
