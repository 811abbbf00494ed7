"""Bad teacher, boundary shrink and expand, SFR-on, AMUN and RURK against closed forms."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rectify.attacks import PGD
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import (
    Amun,
    BadTeacher,
    BoundaryExpand,
    BoundaryShrink,
    Context,
    Rurk,
    SFRon,
    reinitialized,
)

CONTEXT = Context(5, 0.25, (11, 0, 1, 4))


def paired(forget, retain):
    return {"forget": forget, "retain": retain}


# bad teacher


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_bad_teacher(net, original, closed, forget, retain, mixed, temperature):
    objective = BadTeacher(temperature)
    objective.setup(original)
    pieces = []
    for part, teacher in ((forget, objective.ignorant.network), (retain, objective.original.network)):
        losses, gradient = closed.divergence(closed.logits(net, part), closed.logits(teacher, part), temperature)
        pieces.append((part["image"], losses, gradient))
    each = [(x, value / len(value), g / len(value)) for x, value, g in pieces]
    closed.check(objective, net, paired(forget, retain), CONTEXT, *each)
    closed.check(objective, net, mixed, CONTEXT, *[(x, value / 8, g / 8) for x, value, g in pieces])  # one mean


def test_the_bad_teacher_is_drawn_anew_and_alike_in_every_process():
    torch.manual_seed(5)
    network = ResNet(4, 1, width=4)
    with torch.no_grad():
        network.layer1[0].norm1.running_mean.fill_(3.0)
        network.layer1[0].norm1.weight.fill_(2.0)
    state = torch.get_rng_state()
    fresh, again = reinitialized(network, 1), reinitialized(network, 1)
    assert torch.equal(state, torch.get_rng_state())
    assert fresh.layer1[0].norm1.running_mean.abs().max() == 0 and fresh.layer1[0].norm1.weight.min() == 1
    for (name, mine), theirs, other in zip(
        fresh.named_parameters(), again.parameters(), network.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
        assert mine.ndim == 1 or not torch.allclose(mine, other), name
    assert not torch.equal(fresh.stem[0].weight, reinitialized(network, 2).stem[0].weight)


def test_weights_outside_layers_are_drawn_anew_too():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.full((1000,), 7.0))

    drawn = reinitialized(Token(), 0).token
    assert abs(drawn.mean().item()) < 0.003 and drawn.std().item() == pytest.approx(0.02, rel=0.1)


# boundaries


def test_boundary_shrink(net, original, closed, forget):
    """For a linear network the FGSM step has a closed form: eps · sign(W'(p - y))."""
    objective = BoundaryShrink(0.1)
    objective.setup(original)
    label = forget["label"].numpy()
    z = closed.logits(original, forget)
    _, gradient = closed.cross_entropy(z, label)
    image = forget["image"].flatten(1).numpy()
    beyond = np.clip(image + 0.1 * np.sign(gradient @ original.linear.weight.detach().numpy()), 0, 1)
    seen = beyond @ original.linear.weight.detach().numpy().T + original.linear.bias.detach().numpy()
    seen[np.arange(3), label] = -np.inf
    losses, gradient = closed.cross_entropy(closed.logits(net, forget), seen.argmax(1))
    closed.check(objective, net, {"forget": forget}, CONTEXT, (forget["image"], losses / 3, gradient / 3))


def test_boundary_expand(net, closed, forget):
    objective = BoundaryExpand()
    objective.setup(net)
    extra = objective.extra
    x = forget["image"].flatten(1).numpy()
    z = np.concatenate((closed.logits(net, forget), x @ extra.weight.detach().numpy().T + extra.bias.item()), 1)
    losses, gradient = closed.cross_entropy(z, np.full(3, 4))
    step = closed.check(objective, net, {"forget": forget}, CONTEXT, (forget["image"], losses / 3, gradient[:, :4] / 3))
    np.testing.assert_allclose(extra.weight.grad.numpy(), gradient[:, 4:].T @ x / 3, rtol=1e-9)
    assert step.logits.shape == (3, 4)  # the additional class is nobody's prediction
    assert net(forget["image"]).shape == (3, 4)


def test_the_additional_class_is_drawn_by_the_seed(net, monkeypatch):
    drawn = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        objective = BoundaryExpand()
        objective.setup(net)
        drawn.append(objective.extra.weight.detach())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].abs().max() <= 6**-0.5


def test_boundary_expand_needs_a_linear_layer():
    with pytest.raises(RectifyError, match=r"Conv2d has no linear layer.*BoundaryShrink"):
        BoundaryExpand().setup(nn.Conv2d(1, 1, 1))


# SFR-on


@pytest.mark.parametrize("step", [5, 6])
def test_sfron(step, net, closed, forget, retain):
    context = Context(step, 0.25, (0, 0, 0, 0))
    losses, gradient = closed.cross_entropy(closed.logits(net, retain), retain["label"].numpy())
    pieces = [(retain["image"], losses / 5, gradient / 5)]
    if step == 5:
        alpha = 2.0 * 0.5 * (1 + math.cos(math.pi / 4))
        losses, gradient = closed.cross_entropy(closed.logits(net, forget), forget["label"].numpy())
        weight = -alpha * losses**-0.5 / 3
        pieces.append((forget["image"], weight * losses, weight[:, None] * gradient))
    closed.check(SFRon(2.0), net, paired(forget, retain), context, *pieces)


# AMUN


def test_amun_trains_on_the_nearest_deceiving_example(net, original, closed, forget, retain):
    objective = Amun(0.05, doublings=3, steps=3)
    objective.setup(original)
    image, label = forget["image"], forget["label"]
    near, target = objective.nearest(image, label)
    radii = [0.05 * 2**k for k in range(4)]
    for row in range(3):  # each sample alone, radius by radius
        for eps in radii:
            attack = PGD(eps, eps / 4, 3, start="none")
            x = attack(original, image[row : row + 1], label[row : row + 1]).image
            seen = original(x).detach()
            if seen.argmax(1) != label[row]:
                break
        seen[0, label[row]] = -math.inf
        torch.testing.assert_close(near[row : row + 1], x, rtol=0, atol=1e-6)
        assert target[row] == seen.argmax(1)
    pieces = []
    for x, true in ((near, target), (retain["image"], retain["label"])):
        losses, gradient = closed.cross_entropy(closed.logits(net, {"image": x}), true.numpy())
        pieces.append((x, losses / len(x), gradient / len(x)))
    closed.check(objective, net, paired(forget, retain), CONTEXT, *pieces)


def test_amun_keeps_a_sample_that_is_wrong_already(original, forget):
    objective = Amun(0.01, doublings=0, steps=1)
    wrong = original(forget["image"]).argmin(1)
    objective.setup(original)
    near, target = objective.nearest(forget["image"], wrong)
    assert (near - forget["image"]).abs().max() <= 0.01
    assert torch.equal(target, original(near).argmax(1)) and not (target == wrong).any()


# RURK


def test_rurk(net, closed, forget, retain):
    """On a linear network the image it knows best is a corner of the ball, which every step of the attack goes to."""
    objective = Rurk(0.5, eps=0.1, steps=2)
    objective.attack = PGD(0.1, 0.2, 1, start="none")
    label = forget["label"].numpy()
    x = forget["image"].flatten(1).numpy()
    weight = net.linear.weight.detach().numpy()
    _, gradient = closed.cross_entropy(closed.logits(net, forget), label)
    known = np.clip(x - 0.1 * np.sign(gradient @ weight), 0, 1)
    known = np.clip(known, x - 0.1, x + 0.1)
    z = known @ weight.T + net.linear.bias.detach().numpy()
    p = closed.softmax(z)
    right = np.eye(4)[label]
    losses = -np.log(1 - (p * right).sum(1))
    others = p * (1 - right)
    gradient = p - others / others.sum(1, keepdims=True)
    before = closed.cross_entropy(closed.logits(net, forget), label)[0]
    assert (closed.cross_entropy(z, label)[0] < before).all()  # the perturbation helps the network
    pieces = [(known, 0.5 * losses / 3, 0.5 * gradient / 3)]
    losses, gradient = closed.cross_entropy(closed.logits(net, retain), retain["label"].numpy())
    pieces.append((retain["image"], losses / 5, gradient / 5))
    # the ball is rounded inwards by a unit in the last place of its bounds
    closed.check(objective, net, paired(forget, retain), CONTEXT, *pieces)


def test_the_penalty_is_finite_where_the_network_is_sure(net, forget):
    sure = copy.deepcopy(net)
    with torch.no_grad():
        sure.linear.weight.mul_(1e6)
    objective = Rurk()
    objective.setup(sure)
    objective(sure, {"forget": forget}, CONTEXT).loss.backward()
    assert sure.linear.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BadTeacher(0), "temperature is 0"),
        (lambda: BoundaryShrink(8), "eps is 8"),
        (lambda: SFRon(-1), "alpha is -1"),
        (lambda: SFRon(power=-1), "power is -1"),
        (lambda: SFRon(every=0), "every is 0"),
        (lambda: Amun(doublings=-1), "doublings is -1"),
        (lambda: Amun(0.5, doublings=2), "last radius may not exceed 1"),
        (lambda: Rurk(-1), "strength is -1"),
        (lambda: Rurk(steps=0), "steps is 0"),
    ],
)
def test_values_out_of_range_are_refused(build, words):
    with pytest.raises(RectifyError, match=words):
        build()
