"""APGD against a loop written once more sample by sample, its schedule against the paper's, and the contract."""

import copy
import math

import pytest
import torch
from attacked_batch import batch, generator
from torch import nn
from torch.nn import functional as F

from lightning_rectify.attacks import (
    APGD,
    PGD,
    AutoAttack,
    Budget,
    DifferenceOfLogitsRatio,
    FastAutoAttack,
    Square,
    TargetedDifferenceOfLogitsRatio,
    UnitScaleCrossEntropy,
    checkpoints,
)
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError

EPS = 8 / 255
ATTACKS = {
    "ce": lambda: APGD(EPS, 6),
    "dlr restarts": lambda: APGD(EPS, 5, loss="dlr", restarts=2),
    "targeted": lambda: APGD(EPS, 4, loss="targeted_dlr", targets=9),
    "l2": lambda: APGD(0.5, 6, norm="l2"),
    "fast": lambda: FastAutoAttack(EPS, steps=4),
    "square": lambda: Square(EPS, 12),
}


def net():
    """Batch norm in training mode, one module in another mode, one frozen weight."""
    torch.manual_seed(3)
    backbone = ResNet(5, 3, width=8).train()
    backbone.layer2.eval()
    backbone.stem[0].weight.requires_grad_(False)
    return backbone


def dlr(z, y, towards=None):
    """Of one sample, in plain Python."""
    z = z.tolist()
    down = sorted(z, reverse=True)
    if towards is None:
        other = max(value for place, value in enumerate(z) if place != y)
        return (other - z[y]) / (down[0] - down[2] + 1e-12)
    return (z[towards] - z[y]) / (down[0] - (down[2] + down[3]) / 2 + 1e-12)


def test_gains_equal_their_formulas():
    logits, clean = torch.randn(2, 40, 6, dtype=torch.float64)
    label = torch.randint(6, (40,))
    expected = [dlr(z, y) for z, y in zip(logits, label.tolist(), strict=True)]
    torch.testing.assert_close(DifferenceOfLogitsRatio()(logits, label, None), torch.tensor(expected).double())
    for place in (1, 3, 5):
        towards = [
            sorted((c for c in range(6) if c != y), key=lambda c: -float(z[c]))[place - 1]
            for z, y in zip(clean, label.tolist(), strict=True)
        ]
        expected = [dlr(z, y, t) for z, y, t in zip(logits, label.tolist(), towards, strict=True)]
        found = TargetedDifferenceOfLogitsRatio(place)(logits, label, clean)
        torch.testing.assert_close(found, torch.tensor(expected).double())
    once, tenfold = (UnitScaleCrossEntropy()(factor * logits, label, None) for factor in (1, 10))
    torch.testing.assert_close(once, tenfold)
    scaled = torch.stack([z / z.std() for z in logits])
    torch.testing.assert_close(once, F.cross_entropy(scaled, label, reduction="none"))


def test_checkpoints_are_those_of_the_paper():
    shares, ends = [0.0, 0.22], []  # p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), at ceil(p_j·N)
    while shares[-1] <= 1:
        ends.append(math.ceil(100 * shares[-1] - 1e-9))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    assert checkpoints(100) == ends == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1] and checkpoints(10) == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def reference(network, image, label, start, eps, steps, norm, loss):
    """Algorithm 1 of the paper for one sample, with branches; returns its worst point."""

    def look(x):
        x = x.clone().requires_grad_()
        z = network(x[None])[0]
        if loss == "ce":
            value = torch.logsumexp(z, 0) - z[label]
        else:
            other = torch.cat([z[:label], z[label + 1 :]]).max()
            down = z.sort(descending=True).values
            value = (other - z[label]) / (down[0] - down[2] + 1e-12)
        (slope,) = torch.autograd.grad(value, x)
        return float(value.detach()), int(z.argmax()) != label, slope

    def project(x):
        if norm == "linf":
            return torch.max(torch.min(x, image + eps), image - eps).clamp(0, 1)
        away = x - image
        return (image + away * min(1.0, eps * (1 - 1e-5) / float(away.norm()))).clamp(0, 1)

    x, size = start, 2 * eps
    value, wrong, slope = look(x)
    best, worst = (value, x, slope), (wrong, value, x)
    old, rises, check_best, check_halved, opened = x, 0, value, True, 0
    halvings = 0
    for step in range(1, steps + 1):
        unit = slope.sign() if norm == "linf" else slope / slope.norm()
        z = project(x + size * unit)
        new = z if step == 1 else project(x + 0.75 * (z - x) + 0.25 * (x - old))
        old, before = x, value
        x = new
        value, wrong, slope = look(x)
        rises += value > before
        if (wrong, value) > worst[:2]:
            worst = (wrong, value, x)
        if value > best[0]:
            best = (value, x, slope)
        if step in checkpoints(steps):
            oscillates = rises <= 0.75 * (step - opened)
            stuck = not check_halved and check_best >= best[0]
            check_halved = oscillates or stuck
            if check_halved:
                size, halvings = size / 2, halvings + 1
                value, x, slope = best
            check_best, rises, opened = best[0], 0, step
    return worst[2], halvings


@pytest.mark.parametrize(("norm", "eps", "loss"), [("linf", EPS, "ce"), ("linf", 0.1, "dlr"), ("l2", 0.5, "ce")])
def test_apgd_equals_the_loop_in_float64(norm, eps, loss):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Flatten(), nn.Linear(6 * 36, 5)).double()
    image, label = batch(10)
    image = image.double()
    attack = APGD(eps, 22, norm, loss)
    from lightning_rectify.attacks.balls import linf_box

    start = attack._begin(image, eps, linf_box(image, eps) if norm == "linf" else None, generator())
    found = attack(network, image, label, generator=generator()).image
    halved = 0
    for place in range(len(image)):
        expected, halvings = reference(network, image[place], int(label[place]), start[place], eps, 22, norm, loss)
        torch.testing.assert_close(found[place], expected, atol=1e-9, rtol=0)
        halved += halvings
    assert halved > 20  # the branches were taken


@pytest.mark.parametrize("name", ATTACKS)
def test_the_network_is_left_as_it_was(name):
    backbone, (image, label) = net(), batch()
    for parameter in backbone.parameters():
        parameter.grad = torch.full_like(parameter, 3.0) if parameter.requires_grad else None
    before, kept = copy.deepcopy(backbone.state_dict()), image.clone()
    modes = [module.training for module in backbone.modules()]
    wanted = [parameter.requires_grad for parameter in backbone.parameters()]
    state = torch.get_rng_state()
    attack = ATTACKS[name]()
    x = attack(backbone, image, label, generator=generator()).image
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in backbone.modules()] == modes
    assert [parameter.requires_grad for parameter in backbone.parameters()] == wanted
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(p.grad is None or bool((p.grad == 3).all()) for p in backbone.parameters())
    assert torch.equal(image, kept) and not x.requires_grad
    away = (x.double() - image.double()).flatten(1)
    size = away.norm(dim=1) if name == "l2" else away.abs().amax(1)
    assert 0.99 * attack.eps < float(size.max()) <= attack.eps
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    again = attack(backbone, image, label, generator=generator()).image
    other = attack(backbone, image, label, generator=generator(8)).image
    assert torch.equal(x, again) and not torch.equal(x, other)


def test_apgd_never_ends_below_its_start_and_evidence_is_of_the_first_run():
    backbone, (image, label) = net(), batch()
    attack = APGD(EPS, 5, loss="targeted_dlr", targets=9)
    first = APGD(EPS, 5, loss="targeted_dlr", targets=1)
    assert attack.passes == 6 * 9 and first.passes == 6
    one = first(backbone, image, label, generator=generator()).evidence
    many = attack(backbone, image, label, generator=generator()).evidence
    assert torch.equal(one.survived, many.survived) and torch.equal(one.logits, many.logits)
    assert one.steps == many.steps == 6


def test_budgets_per_sample():
    backbone, (image, label) = net(), batch(6)
    eps = torch.tensor([0.0, 1, 2, 3, 4, 5]) / 255
    for attack in (APGD(EPS, 4), Square(EPS, 9)):
        x = attack(backbone, image, label, budget=Budget(eps=eps), generator=generator()).image
        away = (x.double() - image.double()).abs().flatten(1).amax(1)
        assert bool((away <= eps.double()).all()) and bool((away[2:] > 0.9 * eps[2:]).all())
    steps = torch.tensor([0, 2, 4, 4, 2, 0])
    mixed = APGD(EPS, 4)(backbone, image, label, budget=Budget(steps=steps), generator=generator()).image
    plain = APGD(EPS, 4)(backbone, image, label, generator=generator()).image
    assert torch.equal(mixed[steps == 4], plain[steps == 4]) and not torch.equal(mixed[0], plain[0])


def test_fast_autoattack_keeps_what_its_first_part_found_when_none_is_left():
    backbone, (image, label) = net(), batch()
    label = (copy.deepcopy(backbone).eval()(image).argmax(1) + 1) % 5  # wrong to begin with
    first = APGD(EPS, 4)(backbone, image, label, generator=generator()).image
    assert torch.equal(FastAutoAttack(EPS, steps=4)(backbone, image, label, generator=generator()).image, first)


def test_square_only_rises_and_needs_no_gradient():
    class Count(nn.Module):
        calls = 0

        def forward(self, image):
            Count.calls += 1
            assert not image.requires_grad
            return image.flatten(1)[:, :5] * 3

    image, label = batch(24)
    gains = []
    for queries in (1, 5, 60):
        Count.calls = 0
        x = Square(EPS, queries)(Count(), image, label, generator=generator()).image
        assert Count.calls == queries + 1
        logits = x.flatten(1)[:, :5] * 3
        wrong = logits.scatter(1, label[:, None], float("-inf")).amax(1)
        gains.append(wrong - logits.gather(1, label[:, None]).squeeze(1))
    assert bool((gains[1] >= gains[0] - 1e-6)[gains[0] < 0].all())
    assert float(gains[2].mean()) > float(gains[0].mean())


@pytest.fixture(scope="module")
def trained():
    """A small convolutional net trained for a few epochs on half of the digits, by PGD so that something is left."""
    from foreign import IMAGES, LABELS

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer, draw = torch.optim.AdamW(network.parameters(), 3e-3), generator()
    attack = PGD(0.1, 0.05, 3)
    for _ in range(6):
        for rows in torch.randperm(900, generator=draw).split(100):
            x = attack(network, IMAGES[rows], LABELS[rows], generator=draw).image
            F.cross_entropy(network(x), LABELS[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.eval(), IMAGES[900:1200], LABELS[900:1200]


def right(network, x, label):
    with torch.no_grad():
        return network(x).argmax(1) == label


def test_apgd_is_no_weaker_than_pgd_and_in_the_range_of_the_authors_code(trained):
    network, image, label = trained
    clean = right(network, image, label)
    pgd = right(network, PGD(0.15, 0.0375, 20)(network, image, label, generator=generator()).image, label)
    ours = {}
    for loss in ("ce", "dlr", "targeted_dlr"):
        x = APGD(0.15, 20, loss=loss)(network, image, label, generator=generator()).image
        ours[loss] = float((right(network, x, label) & clean).float().mean())
    assert 0.2 < ours["ce"] < 0.9  # something falls and something is left
    assert ours["ce"] <= float((pgd & clean).float().mean()) + 0.01
    assert ours["targeted_dlr"] <= ours["dlr"] + 0.01
    package = pytest.importorskip("pyautoattack.autopgd_base")
    for loss, kind in (("ce", "APGDAttack"), ("dlr", "APGDAttack"), ("targeted_dlr", "APGDAttack_targeted")):
        extra = {"n_target_classes": 9} if kind == "APGDAttack_targeted" else {"loss": loss}
        theirs = getattr(package, kind)(network, n_iter=20, norm="Linf", eps=0.15, seed=1, device="cpu", **extra)
        robust = float((right(network, theirs.perturb(image, label), label) & clean).float().mean())
        assert abs(robust - ours[loss]) <= 0.01, loss  # three of the 300 images


def test_autoattack_of_the_package_is_no_weaker_than_the_fast_one(trained):
    pytest.importorskip("pyautoattack")
    network, image, label = trained
    network, image, label = copy.deepcopy(network).train(), image[:60], label[:60]
    state = torch.get_rng_state()
    x = AutoAttack(0.1, queries=100)(network, image, label, generator=generator()).image
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert float((x - image).abs().max()) <= 0.1 + 1e-6
    fast = FastAutoAttack(0.1)(network, image, label, generator=generator()).image
    whole = int(right(network, x, label).sum())
    assert 0 < whole <= int(right(network, fast, label).sum()) + 1


def test_autoattack_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("lightning_rectify.attacks.autoattack.find_spec", lambda name: None)
    with pytest.raises(RectifyError, match=r"pip install 'lightning-rectify\[autoattack\]'"):
        AutoAttack()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: APGD(8), "eps is 8"),
        (lambda: APGD(steps=0), "steps is 0"),
        (lambda: APGD(loss="kl"), "loss is 'kl'"),
        (lambda: APGD(norm="l1"), "norm is 'l1'"),
        (lambda: APGD(restarts=0), "restarts is 0"),
        (lambda: FastAutoAttack()(net(), batch()[0], object()), "FastAutoAttack compares with one label"),
        (lambda: Square(queries=0), "queries is 0"),
        (lambda: Square(area=0), "area is 0"),
        (lambda: DifferenceOfLogitsRatio()(torch.randn(2, 2), torch.tensor([0, 1]), None), "2 classes"),
    ],
)
def test_bad_values(call, words):
    with pytest.raises(RectifyError, match=words):
        call()
