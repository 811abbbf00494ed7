"""The implicit gradient against finite differences of a bilevel problem whose lower level is solved exactly."""

import torch

from lightning_rectify.attacks import LogBarrier
from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import AdversarialTraining, Context, KLDROWeights, implicit_term

C, EPS = 0.05, 0.2


def slope(theta, sample):
    """The lower loss is a(θ)·δ, linear in δ; a is quadratic in θ."""
    return (theta**2 + 0.3 * sample * theta.roll(1)).sin()


def solve(theta, sample):
    """argmax_δ a(θ)·δ + c·Σ [log(ε - δ) + log(δ + ε)], by bisection."""
    low, high = torch.full_like(theta, -EPS), torch.full_like(theta, EPS)
    for _ in range(100):
        middle = (low + high) / 2
        push = slope(theta, sample) - C * (1 / (EPS - middle) - 1 / (middle + EPS))
        low, high = torch.where(push > 0, middle, low), torch.where(push > 0, high, middle)
    return (low + high) / 2


def upper(theta, delta, sample):
    """A quadratic in δ that also hangs on θ."""
    return ((delta - 0.1 * theta + 0.2 * sample) ** 2).sum(-1) + (theta.detach() * 0 + theta).pow(3).sum() * 0.1


def total(theta):
    return sum(upper(theta, solve(theta, s), s) for s in (0.5, -1.0, 2.0))


def test_the_hypergradient_of_a_bilevel_problem():
    theta = torch.tensor([0.4, -0.8, 1.1, 0.6], dtype=torch.float64)
    numeric = torch.stack(
        [(total(theta + h) - total(theta - h)) / 2e-5 for h in 1e-5 * torch.eye(4, dtype=theta.dtype)]
    )
    samples = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    theta.requires_grad_()
    delta = torch.stack([solve(theta.detach(), s) for s in samples]).requires_grad_()
    outer = torch.stack([upper(theta, d, s) for d, s in zip(delta, samples, strict=True)])
    lower = torch.stack([(slope(theta, s) * d).sum() for d, s in zip(delta, samples, strict=True)])
    curvature = C * (1 / (EPS - delta.detach()) ** 2 + 1 / (delta.detach() + EPS) ** 2)
    implicit = implicit_term(outer, lower, delta, curvature, C)
    (whole,) = torch.autograd.grad(outer.sum() + implicit.sum(), theta, retain_graph=True)
    torch.testing.assert_close(whole, numeric, rtol=1e-6, atol=1e-8)
    (explicit,) = torch.autograd.grad(outer.sum(), theta)
    assert float((explicit - numeric).abs().max()) > 1e-3  # the second term is no decoration


def test_done_adds_a_gradient_and_no_value():
    torch.manual_seed(2)
    backbone = ResNet(4, 3, width=8, norm="group").double()
    batch = {"image": torch.rand(6, 3, 8, 8, dtype=torch.float64), "label": torch.randint(4, (6,))}
    attack, results = LogBarrier(steps=2, barrier=1e-4), []
    for implicit in (False, True):
        objective = AdversarialTraining(attack, weighting=KLDROWeights(1.0, 1.0), implicit=implicit)
        assert objective.double_backward is implicit
        loss = objective(backbone, batch, Context()).loss
        gradient = torch.autograd.grad(loss, list(backbone.parameters()))
        results.append((loss.detach(), torch.cat([g.flatten() for g in gradient])))
    (plain, explicit), (valued, whole) = results
    torch.testing.assert_close(plain, valued)

    # by hand: w_i·Σ (g_i·v_i) with v = g/H fixed, differentiated by finite differences along one direction
    result = attack(backbone, batch["image"], batch["label"])
    c, h = attack.barrier, result.evidence.curvature

    def input_gradient():
        x = result.image.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(backbone(x), batch["label"], reduction="none")
        return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]

    loss, g = input_gradient()
    h = torch.maximum(h, g**2 / c)
    assert float((g / h).abs().max()) <= attack.eps  # no pixel answers by more than the ball
    weight = (loss.exp() / loss.exp().mean())[:, None]
    direction = torch.randn_like(whole)
    sizes = [p.numel() for p in backbone.parameters()]

    def shifted(amount):
        with torch.no_grad():
            for p, d in zip(backbone.parameters(), direction.split(sizes), strict=True):
                p += amount * d.view_as(p)
        value = (weight * (input_gradient()[1] * g / h).flatten(1)).sum() / 6
        with torch.no_grad():
            for p, d in zip(backbone.parameters(), direction.split(sizes), strict=True):
                p -= amount * d.view_as(p)
        return value

    numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    torch.testing.assert_close(((whole - explicit) * direction).sum(), numeric, rtol=1e-3, atol=1e-8)
    assert float((whole - explicit).abs().max()) > 1e-6
