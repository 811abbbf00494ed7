"""frozen_eval leaves modes, requires_grad, gradients, buffers and random state as they were."""

import pytest
import torch
from torch import nn

from lightning_rectify.frozen import frozen_eval


@pytest.fixture
def net():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net[1].eval()
    net[0].bias.requires_grad_(False)
    net[3].weight.grad = torch.ones(2, 4)
    return net


def snapshot(net):
    return (
        [module.training for module in net.modules()],
        [parameter.requires_grad for parameter in net.parameters()],
        [None if parameter.grad is None else parameter.grad.tolist() for parameter in net.parameters()],
        {name: value.tolist() for name, value in net.state_dict().items()},
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize("input_gradients", [False, True])
def test_everything_is_restored(net, input_gradients):
    before = snapshot(net)
    with frozen_eval(net, input_gradients=input_gradients):
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
        assert torch.is_grad_enabled() is input_gradients
        net(torch.rand(8, 4))
        torch.rand(100)
    assert snapshot(net) == before


def test_everything_is_restored_when_the_block_raises(net):
    before = snapshot(net)
    with pytest.raises(ZeroDivisionError), frozen_eval(net, input_gradients=True):
        torch.rand(3)
        raise ZeroDivisionError
    assert snapshot(net) == before


def test_only_inputs_collect_gradients(net):
    with frozen_eval(net, input_gradients=True):
        image = torch.rand(8, 4, requires_grad=True)
        net(image).sum().backward()
    assert image.grad.abs().sum() > 0
    assert net[0].weight.grad is None
    assert net[3].weight.grad.eq(1).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_flow_inside_no_grad_and_inference_mode(net, mode):
    with mode():
        made_inside = torch.rand(8, 4)
        before = snapshot(net)
        with frozen_eval(net, input_gradients=True):
            image = made_inside.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(net(image).sum(), image)
        assert snapshot(net) == before
    assert gradient.abs().sum() > 0
    net.train()
    net(torch.rand(8, 4)).sum().backward()  # the weights are still ordinary tensors


def test_blocks_nest(net):
    before = snapshot(net)
    with frozen_eval(net, input_gradients=True):
        with frozen_eval(net):
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
        assert not net.training and not net[3].weight.requires_grad
    assert snapshot(net) == before


def test_autocast_is_off_inside_and_back_afterwards(net):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with frozen_eval(net):
            assert net(torch.rand(8, 4)).dtype == torch.float32
        assert net(torch.rand(8, 4)).dtype == torch.bfloat16


def test_the_random_state_may_be_left_open(net):
    before = torch.get_rng_state()
    with frozen_eval(net, fork_rng=False):
        torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), before)


def test_an_overridden_train_is_not_called(net):
    class Merging(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("a look must not switch adapters")

    with frozen_eval(Merging(2, 2)) as _:
        pass


def test_compiled_modules_run_eagerly_inside(net):
    net[0].compile(backend="eager")
    net(torch.rand(8, 4))
    seen = []
    with frozen_eval(net):
        handle = net[0].register_forward_hook(lambda *_: seen.append(1))
        net(torch.rand(8, 4))
        handle.remove()
    assert seen == [1]


def test_a_compiled_forward_runs_eagerly_inside_and_compiles_nothing_anew(net):
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph.forward

    net.forward = torch.compile(net.forward, backend=backend)  # as Lightning does with a compiled LightningModule
    net(torch.rand(8, 4))
    before, seen = len(graphs), []
    with frozen_eval(net):
        handle = net[0].register_forward_hook(lambda *_: seen.append(1))
        net(torch.rand(8, 4))
        handle.remove()
    assert seen == [1] and len(graphs) == before >= 1


def test_a_model_without_parameters(net):
    with frozen_eval(nn.ReLU(), input_gradients=True):
        assert torch.is_grad_enabled()
