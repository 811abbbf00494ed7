"""The untrained network of a trained one."""

import torch
from torch import nn

from lightning_rectify.backbones import ResNet
from lightning_rectify.commands.untrained import untrained_copy


def test_every_weight_is_drawn_anew_and_nothing_else_is_touched():
    trained = ResNet(10, depth=18, width=8)
    with torch.no_grad():
        for tensor in (*trained.parameters(), *(b for b in trained.buffers() if b.dtype.is_floating_point)):
            tensor.add_(1.0)
    before, draws = {k: v.clone() for k, v in trained.state_dict().items()}, torch.get_rng_state()
    fresh, again = untrained_copy(trained), untrained_copy(trained)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    for (name, one), two in zip(fresh.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two) and not torch.equal(one, before[name]), name
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
            assert torch.equal(module.weight, torch.ones_like(module.weight))


def test_a_parameter_that_no_layer_can_draw_makes_it_impossible():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    assert untrained_copy(Token()) is None
