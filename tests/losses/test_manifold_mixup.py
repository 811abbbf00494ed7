"""Manifold Mixup against a forward written out by hand."""

import pytest
import torch
from torch import nn

from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import Context, ManifoldMixup, mixed_output


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.fixture
def model():
    return ResNet(4, 1, width=8).eval()


@pytest.fixture
def batch():
    return {"image": torch.rand(6, 1, 8, 8), "label": torch.arange(6) % 4}


def by_hand(model: ResNet, x: torch.Tensor, plan, layer: str) -> torch.Tensor:
    if layer == "input":
        x = plan.apply(x)
    x = model.stem(model.normalize(x))
    for name in ("layer1", "layer2", "layer3"):
        x = getattr(model, name)(x)
        if name == layer:
            x = plan.apply(x)
    return model.classifier(model.pool(x).flatten(1))


@pytest.mark.parametrize("layer", ["input", "layer1", "layer2", "layer3"])
def test_logits_are_those_of_a_forward_by_hand(model, batch, layer):
    objective = ManifoldMixup([layer])
    objective.setup(model)
    step = objective(model, batch, Context())
    plan = objective.plan(batch["image"], Context())
    assert torch.equal(step.logits, by_hand(model, batch["image"], plan, layer))
    assert hooks(model) == 0


def test_draw_does_not_depend_on_the_layer(batch):
    plans = [ManifoldMixup([name]).plan(batch["image"], Context()) for name in ("input", "layer2")]
    assert torch.equal(plans[0].image_weights, plans[1].image_weights)
    assert torch.equal(plans[0].partners, plans[1].partners)


def test_layers_are_drawn_uniformly():
    objective = ManifoldMixup(["input", "layer1", "layer2"])
    chosen = [objective.choose_layer(Context(key=(0, 0, 0, i))) for i in range(600)]
    for name in objective.layers:
        assert 150 < chosen.count(name) < 250


def test_hook_is_removed_when_the_forward_raises(model, batch):
    objective = ManifoldMixup(["layer1"])
    with pytest.raises(RuntimeError):
        objective(model, {**batch, "image": torch.rand(6, 2, 8, 8)}, Context())
    assert hooks(model) == 0


def test_layers_that_cannot_be_mixed_are_refused(model, batch):
    plan = ManifoldMixup().plan(batch["image"], Context())
    with pytest.raises(RectifyError, match="did not run"), mixed_output(model.layer1, plan):
        pass

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    pair = Pair()
    with pytest.raises(RectifyError, match="no tensor"), mixed_output(pair, plan):
        pair(batch["image"])
    assert hooks(model) == hooks(pair) == 0


def test_a_layer_used_twice_is_mixed_once(batch):
    plan = ManifoldMixup().plan(batch["image"], Context())
    layer = nn.Identity()
    with mixed_output(layer, plan):
        first, second = layer(batch["image"]), layer(batch["image"])
    assert torch.equal(first, plan.apply(batch["image"]))
    assert torch.equal(second, batch["image"])


@pytest.mark.parametrize("arguments", [{"layers": []}, {"layers": ["input", "input"]}, {"alpha": 0.0}])
def test_bad_arguments_name_themselves(arguments):
    with pytest.raises(RectifyError, match=next(iter(arguments))):
        ManifoldMixup(**arguments)
