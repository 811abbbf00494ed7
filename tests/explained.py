"""A small network to explain: batch normalisation, dropout, an activation in place and a functional pooling."""

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, channels=3, classes=4, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6) if bias else nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.deep = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=bias), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(8, classes, bias=bias)

    def forward(self, image):
        hidden = self.deep(self.act(self.norm(self.conv(image))))
        return self.linear(self.drop(hidden.mean((2, 3))))


def case(dtype=torch.float64, **options):
    """A network, three images and targets."""
    torch.manual_seed(3)
    net = Net(**options).to(dtype)
    if isinstance(net.norm, nn.BatchNorm2d):
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    return net, torch.rand(3, options.get("channels", 3), 10, 12, dtype=dtype), torch.tensor([0, 3, 1])


def trace(net):
    """What an explanation must leave alone."""
    return (
        [module.training for module in net.modules()],
        [(id(p), p._version, p.requires_grad, p.grad) for p in net.parameters()],
        {name: value.tolist() for name, value in net.state_dict().items()},
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()],
        torch.get_rng_state().tolist(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    )
