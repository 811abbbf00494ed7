"""Folded batch norms compute what the network computes, only where nothing else looks on, and leave no trace."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_rectify.attacks import PGD
from lightning_rectify.attacks._folding import foldable, folded
from lightning_rectify.attacks._view import network as attacked
from lightning_rectify.backbones import ResNet


def settled(network):
    """Float64, evaluation mode, statistics and affine weights that are no identity."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in [*module.parameters(), *module.buffers()]:
                if value.is_floating_point():
                    value.data.uniform_(0.5, 2, generator=generator)
    return network.double().eval()


class Branches(nn.Module):
    """Pairs that fold (`plain`, `grouped`) beside what must not."""

    def __init__(self):
        super().__init__()
        self.plain, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)
        self.grouped, self.norm2 = nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)
        self.read_twice, self.norm3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.shared, self.norm4, self.norm5 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.own, self.norm6 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x):
        x = self.norm2(self.grouped(F.relu(self.norm1(self.plain(x)))))
        y = self.read_twice(x)
        x = F.relu(self.norm3(y)) + y
        x = self.norm5(self.shared(F.relu(self.norm4(self.shared(x)))))
        return self.norm6(self.own(x)).mean((2, 3))


def through(network, image):
    with folded(network) as ready:
        return torch.func.functional_call(network, ready, image), set(ready)


@pytest.mark.parametrize("build", [lambda: ResNet(10, depth=18, width=8), Branches], ids=["resnet", "branches"])
def test_the_folded_network_computes_the_same(build):
    network, image = settled(build()), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    expected = network(image)
    found, _ = through(network, image)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not any("forward" in vars(module) for module in network.modules())
    assert torch.equal(network(image), expected)


def test_which_norms_are_folded():
    assert len(foldable(ResNet(10, depth=18, width=8))) == 20
    network, image = settled(Branches()), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert through(network, image)[1] == {"plain.weight", "plain.bias", "grouped.weight", "grouped.bias"}
    network.plain.register_forward_hook(lambda *_: None)
    assert through(network, image)[1] == {"grouped.weight", "grouped.bias"}
    network.norm2.train()  # it has statistics of the batch
    assert through(network, image)[1] == set()


def test_hooks_never_meet_the_tracer():
    network, seen = settled(Branches()), []
    handle = network.grouped.register_forward_hook(lambda module, args, out: seen.append(type(out)))
    assert foldable(network) == [] and seen == []
    handle.remove()
    assert ("grouped", "norm2") in foldable(network)


def test_a_network_that_cannot_be_traced_is_attacked_as_it_is():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

        def forward(self, x):
            x = self.norm(self.first(x))
            return self.last((x if x.mean() > 0 else -x).mean((2, 3)))

    network = Branching()
    assert foldable(network) == []
    image = torch.rand(4, 3, 8, 8)
    assert not torch.equal(PGD(steps=2)(network, image, torch.arange(4)).image, image)


def test_the_weights_are_folded_anew_in_each_attack():
    network, image, label = ResNet(5, width=8), torch.rand(8, 3, 8, 8), torch.arange(8) % 5
    attack = PGD(steps=1, start="none")
    attack(network, image, label)
    with torch.no_grad():
        network.stem[0].weight.neg_()
        network.stem[1].running_mean.add_(0.3)
    expected = network.eval()(image).detach()
    torch.testing.assert_close(attack(network, image, label, clean=True).evidence.clean, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError):
        attack(network, image[:, :2], label)
    assert not any("forward" in vars(module) for module in network.modules())


class Small(nn.Module):
    """A convolution and its norm; `body` is the rest of the forward."""

    def __init__(self, body):
        super().__init__()
        self.first, self.norm, self.body = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), body
        self.flag, self.seen = False, []

    def forward(self, x):
        return self.body(self, x)


def same(network, image):
    """The pairs found, after a check that an attack's forward computes the same."""
    with attacked(network, False, False) as forward:
        found = forward(image)
    torch.testing.assert_close(found, network(image), rtol=1e-12, atol=1e-12)
    return foldable(network)


@pytest.mark.parametrize("traceable", [True, False])
def test_the_trace_leaves_nothing_in_the_modules(traceable):
    def body(self, x):
        self.latest, self.flag = x, True
        self.seen.append(x)
        x = self.norm(self.first(x))
        return x if traceable or x.sum() > 0 else -x

    network = Small(body)
    kept, held = dict(vars(network)), network.seen
    assert foldable(network) == ([("first", "norm")] if traceable else [])
    assert vars(network) == kept and network.seen is held and held == []


def test_another_flag_is_another_graph():
    def body(self, x):
        y = self.first(x)
        return self.norm(y) + y if self.flag else self.norm(y)

    network, image = settled(Small(body)), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert same(network, image)
    network.flag = True
    assert not same(network, image)
    network.flag = False
    assert same(network, image)


def test_a_network_that_counts_its_calls_is_soon_left_as_it_is():
    traced = []

    def body(self, x):
        self.flag += 1
        traced.append(isinstance(x, torch.fx.Proxy))
        return self.norm(self.first(x))

    network, image = settled(Small(body)), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    for _ in range(12):
        same(network, image)
    assert sum(traced) == 8


def test_a_weight_that_the_forward_reads_itself_is_not_folded():
    def body(self, x):
        return self.norm(self.first(x)) * self.first.weight.norm()

    network = settled(Small(body))
    assert not same(network, torch.rand(2, 3, 4, 4, dtype=torch.float64))


def test_a_weight_that_two_modules_share_is_folded_in_one():
    network = Small(lambda self, x: self.last(self.norm(self.first(x))))
    network.last = nn.Conv2d(3, 3, 1)
    network.last.weight = network.first.weight
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert same(settled(network), image)
    with attacked(network.float(), True, False) as forward:
        low = forward(image.float())
    torch.testing.assert_close(low.float(), network(image.float()), rtol=0.05, atol=0.05)
