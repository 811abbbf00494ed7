"""What every attack owes: no trace on the network, and images inside the ball and [0, 1] to the last bit."""

import copy

import pytest
import torch
from attacked_batch import batch, generator
from torch import nn
from torch.nn import functional as F

from lightning_rectify.attacks import (
    FGSM,
    NFGSM,
    PGD,
    Budget,
    CarliniWagnerMargin,
    CrossEntropyGain,
    DivergenceGain,
    LogBarrier,
    margin,
)
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError

EPS = 8 / 255
ATTACKS = {
    "pgd": lambda **how: PGD(EPS, 2 / 255, 4, **how),
    "pgd normal": lambda **how: PGD(EPS, 2 / 255, 3, start="normal", **how),
    "pgd restarts": lambda **how: PGD(EPS, 3 / 255, 2, restarts=3, **how),
    "pgd l2": lambda **how: PGD(0.5, 0.2, 4, norm="l2", **how),
    "fgsm": lambda **how: FGSM(EPS, **{k: v for k, v in how.items() if k != "batch_statistics"}),
    "nfgsm": lambda **how: NFGSM(EPS, **how),
    "log barrier": lambda **how: LogBarrier(EPS, 2 / 255, 4, **how),
}
IN_BALL = [name for name in ATTACKS if name not in ("nfgsm", "pgd l2")]


def net():
    """Batch norm, dropout, one module in another mode than the rest, one frozen weight."""
    torch.manual_seed(3)
    backbone = ResNet(5, 3, width=8)
    backbone.layer1.append(nn.Dropout(0.5))
    backbone.train()
    backbone.layer2.eval()
    backbone.stem[0].weight.requires_grad_(False)
    return backbone


@pytest.mark.parametrize("how", [{}, {"batch_statistics": True}, {"bf16": True, "channels_last": True}], ids=str)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_network_is_left_as_it_was(name, how):
    backbone, (image, label) = net(), batch()
    for parameter in backbone.parameters():
        parameter.grad = torch.full_like(parameter, 3.0) if parameter.requires_grad else None
    before, kept = copy.deepcopy(backbone.state_dict()), image.clone()
    modes = [module.training for module in backbone.modules()]
    wanted = [parameter.requires_grad for parameter in backbone.parameters()]
    tracked = [getattr(module, "track_running_stats", None) for module in backbone.modules()]
    state = torch.get_rng_state()
    result = ATTACKS[name](**how)(backbone, image, label, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in backbone.modules()] == modes
    assert [parameter.requires_grad for parameter in backbone.parameters()] == wanted
    assert [getattr(module, "track_running_stats", None) for module in backbone.modules()] == tracked
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    for parameter in backbone.parameters():
        assert parameter.grad is None or bool((parameter.grad == 3).all())
    assert torch.equal(image, kept)
    assert not result.image.requires_grad and result.image.dtype == torch.float32
    assert not torch.equal(result.image, image)


def test_the_network_is_left_as_it_was_when_the_attack_raises():
    backbone, (image, label) = net(), batch()
    modes = [module.training for module in backbone.modules()]
    with pytest.raises(RuntimeError):
        PGD(batch_statistics=True)(backbone, image[:, :2], label)
    assert [module.training for module in backbone.modules()] == modes
    assert sum(parameter.requires_grad for parameter in backbone.parameters()) > 10
    assert backbone.stem[1].track_running_stats


@pytest.mark.parametrize("how", [{}, {"bf16": True, "channels_last": True}], ids=str)
@pytest.mark.parametrize("name", IN_BALL)
@pytest.mark.parametrize("eps", [8 / 255, 0.031, 1 / 3])
def test_linf_images_stay_in_the_ball_to_the_last_bit(name, eps, how):
    attack, (image, label) = ATTACKS[name](**how), batch(32)
    attack.eps, attack.step_size = eps, eps
    x = attack(net(), image, label, generator=generator()).image
    assert float((x.double() - image.double()).abs().max()) <= eps
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    if name != "log barrier":  # and the ball is used
        assert float((x.double() - image.double()).abs().max()) > 0.999 * eps


@pytest.mark.parametrize("eps", [0.5, 128 / 255, 3.0])
def test_l2_images_stay_in_the_ball_to_the_last_bit(eps):
    image, label = batch(32)
    x = PGD(eps, eps, 3, norm="l2")(net(), image, label, generator=generator()).image
    away = (x.double() - image.double()).flatten(1).norm(dim=1)
    assert float(away.max()) <= eps and float(x.min()) >= 0 and float(x.max()) <= 1
    if eps <= 0.51:  # the middle of the cube is far from its faces
        assert float(away.max()) > 0.999 * eps


def test_nfgsm_may_leave_the_ball_but_not_the_cube():
    image, label = batch(32)
    x = NFGSM(EPS)(net(), image, label, generator=generator()).image
    away = (x - image).abs().max()
    assert EPS < away <= 3 * EPS + 1e-6 and float(x.min()) >= 0 and float(x.max()) <= 1


def reference_pgd(backbone, image, label, eps, step, steps, noise):
    """The straightforward loop in eval mode."""
    backbone = copy.deepcopy(backbone).eval()
    x = (image + noise).clamp(0, 1)
    correct = torch.zeros(len(image), dtype=torch.int64)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        logits = backbone(x)
        correct += logits.argmax(1) == label
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), x)
        x = x.detach() + step * gradient.sign()
        x = torch.min(torch.max(x, image - eps), image + eps).clamp(0, 1)
    return x, correct, logits.detach()


def test_pgd_equals_the_straightforward_loop():
    backbone, (image, label) = net(), batch()
    noise = torch.empty_like(image).uniform_(-1, 1, generator=generator()) * EPS
    expected, correct, logits = reference_pgd(backbone, image, label, EPS, 2 / 255, 5, noise)
    result = PGD(EPS, 2 / 255, 5)(backbone, image, label, generator=generator(), clean=True)
    assert float((result.image - expected).abs().max()) < 1e-6
    evidence = result.evidence
    assert torch.equal(evidence.survived, correct) and evidence.steps == 5
    torch.testing.assert_close(evidence.logits, logits, atol=1e-5, rtol=1e-5)
    clean = copy.deepcopy(backbone).eval()(image).detach()
    torch.testing.assert_close(evidence.clean, clean)
    torch.testing.assert_close(evidence.clean_energy(), -clean.exp().sum(1).log())
    torch.testing.assert_close(evidence.energy(), -logits.exp().sum(1).log(), atol=1e-4, rtol=1e-4)
    probability = logits.softmax(1)
    by_hand = [
        max(float(p[j]) for j in range(5) if j != y) - float(p[y])
        for p, y in zip(probability, label.tolist(), strict=True)
    ]
    torch.testing.assert_close(evidence.margins(label), torch.tensor(by_hand), atol=1e-5, rtol=1e-5)


def test_fgsm_is_one_whole_step():
    backbone, (image, label) = net(), batch()
    expected, _, _ = reference_pgd(backbone, image, label, EPS, EPS, 1, torch.zeros_like(image))
    assert float((FGSM(EPS)(backbone, image, label).image - expected).abs().max()) < 1e-6


def test_nfgsm_equals_its_two_lines():
    backbone, (image, label) = net(), batch()
    start = (image + torch.empty_like(image).uniform_(-2, 2, generator=generator()) * EPS).clamp(0, 1).requires_grad_()
    loss = F.cross_entropy(copy.deepcopy(backbone).eval()(start), label)
    expected = (start + EPS * torch.autograd.grad(loss, start)[0].sign()).clamp(0, 1)
    x = NFGSM(EPS)(backbone, image, label, generator=generator()).image
    torch.testing.assert_close(x, expected.detach(), atol=1e-6, rtol=0)


def test_batch_statistics_are_those_of_the_attacked_batch():
    backbone, (image, label) = net(), batch()
    train = copy.deepcopy(backbone)  # with the batch norms of layer2 frozen, as the user left them
    for module in train.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    result = PGD(EPS, steps=1, start="none", batch_statistics=True)(backbone, image, label)
    torch.testing.assert_close(result.evidence.logits, train(image).detach())
    train.eval()
    again = PGD(EPS, steps=1, start="none", batch_statistics=True)(train, image, label)  # nothing trains: all of them
    everything = train.train()
    for module in everything.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    torch.testing.assert_close(again.evidence.logits, everything(image).detach())


class Linear(nn.Module):
    """Two logits, linear in the pixels: gradients and worst points are known."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image):
        score = (image * self.weight).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


def test_l2_geometry_on_a_linear_network():
    """Every step goes along the gradient; from the image itself the result is eps·w/|w|, the steepest direction."""
    weight, image = torch.randn(1, 4, 4), torch.full((3, 1, 4, 4), 0.5)
    label = torch.tensor([0, 1, 0])
    sign = torch.tensor([-1.0, 1.0, -1.0]).view(-1, 1, 1, 1)
    direction = sign * weight / weight.norm()
    for steps, length in ((1, 0.1), (2, 0.2), (5, 0.3)):  # 0.3: the radius; more steps do not leave it
        x = PGD(0.3, 0.1, steps, norm="l2", start="none")(Linear(weight), image, label).image
        torch.testing.assert_close(x, image + length * direction, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uniform_starts_fill_the_ball(norm):
    image = torch.full((4000, 1, 1, 2), 0.5)
    away = PGD(0.1, norm=norm)._begin(image, 0.1, generator()) - image
    if norm == "linf":  # uniform coordinates: variance eps²/3
        torch.testing.assert_close(away.var(0).flatten(), torch.full((2,), 0.01 / 3), rtol=0.1, atol=0)
    else:  # in a disc half of the points lie within eps/√2
        radius = away.flatten(1).norm(dim=1)
        assert float(radius.max()) <= 0.1 + 1e-6
        assert abs(float((radius < 0.1 / 2**0.5).float().mean()) - 0.5) < 0.03


def test_budgets_per_sample():
    backbone, (image, label) = net(), batch(6)
    eps = torch.tensor([0.0, 1, 2, 3, 4, 5]) / 255
    x = PGD(EPS, 6 / 255, 2)(backbone, image, label, budget=Budget(eps=eps), generator=generator()).image
    away = (x.double() - image.double()).abs().flatten(1).amax(1)
    assert bool((away <= eps.double()).all()) and bool((away[1:] > 0.9 * eps[1:]).all()) and float(away[0]) == 0
    small = Budget(step_size=torch.full((6,), 1 / 255))
    expected = PGD(EPS, 1 / 255, 3)(backbone, image, label, generator=generator()).image
    assert torch.equal(
        PGD(EPS, 2 / 255, 3)(backbone, image, label, budget=small, generator=generator()).image, expected
    )
    steps = torch.tensor([0, 1, 2, 3, 3, 0])
    mixed = PGD(EPS, 2 / 255, 3)(backbone, image, label, budget=Budget(steps=steps), generator=generator()).image
    for k in (1, 2, 3):
        plain = PGD(EPS, 2 / 255, k)(backbone, image, label, generator=generator()).image
        assert torch.equal(mixed[steps == k], plain[steps == k])
    x = LogBarrier(EPS)(backbone, image, label, budget=Budget(eps=eps)).image
    assert torch.equal(x[0], image[0]) and bool(x.isfinite().all())


def test_restarts_keep_the_worst_of_each_sample():
    backbone, (image, label) = net(), batch()
    single, draw = PGD(EPS, 2 / 255, 2), generator()
    tries = [single(backbone, image, label, generator=draw).image for _ in range(4)]
    evaluated = copy.deepcopy(backbone).eval()
    logits = torch.stack([evaluated(x) for x in tries])
    worth = F.cross_entropy(logits.flatten(0, 1), label.repeat(4), reduction="none").view(4, -1).detach()
    worth += 100 * (logits.argmax(2) != label)
    kept = PGD(EPS, 2 / 255, 2, restarts=4)(backbone, image, label, generator=generator()).image
    for i, best in enumerate(worth.argmax(0).tolist()):
        assert torch.equal(kept[i], tries[best][i])


def test_the_same_generator_gives_the_same_images_and_another_another():
    backbone, (image, label) = net(), batch()
    one, same, other = (PGD(EPS)(backbone, image, label, generator=generator(s)).image for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_bf16_attacks_as_strongly():
    torch.manual_seed(0)
    backbone, (image, label) = ResNet(5, 3, width=8).eval(), batch(64)
    full, low = (
        PGD(EPS, 2 / 255, 5, bf16=b, channels_last=b)(backbone, image, label, generator=generator())
        for b in (False, True)
    )
    gains = [F.cross_entropy(backbone(result.image), label).item() for result in (full, low)]
    start = F.cross_entropy(backbone(image), label).item()
    assert gains[1] - start > 0.95 * (gains[0] - start)
    assert low.evidence.logits.dtype == torch.float32


def test_gains_against_their_definitions():
    torch.manual_seed(1)
    logits, clean = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    label = torch.randint(4, (9,))
    p, q = clean.exp() / clean.exp().sum(1, True), logits.exp() / logits.exp().sum(1, True)
    torch.testing.assert_close(DivergenceGain()(logits, label, clean), (p * (p / q).log()).sum(1))
    torch.testing.assert_close(CrossEntropyGain()(logits, label, None), -q[range(9), label].log())
    wrong = torch.tensor(
        [max(float(row[j]) for j in range(4) if j != y) for row, y in zip(logits, label.tolist(), strict=True)]
    )
    torch.testing.assert_close(margin(logits, label), wrong - logits[range(9), label])
    capped = CarliniWagnerMargin(0.5)(logits, label, None)
    torch.testing.assert_close(capped, margin(logits, label).clamp(max=0.5))
    assert bool((capped == 0.5).any())


def test_the_margin_attack_survives_the_scale_of_the_logits():
    """Cross-entropy in float32 has no gradient left where the right logit leads by hundreds; the margin does."""
    weight, image = torch.randn(1, 4, 4) * 1e4, torch.rand(8, 1, 4, 4)
    label = Linear(weight)(image).argmax(1)
    attack = PGD(0.01, 0.01, 1, start="none")
    assert torch.equal(attack(Linear(weight), image, label).image, image)
    moved = attack(Linear(weight), image, label, CarliniWagnerMargin()).image
    assert not torch.equal(moved, image)


def test_log_barrier_settles_where_loss_and_barrier_balance():
    """On a linear network g = c·(1/(u - δ) - 1/(δ - l)) has one solution, found here by bisection."""
    weight, image, c, eps = torch.randn(1, 3, 3), torch.full((2, 1, 3, 3), 0.5), 2e-2, 0.1

    class Slope(CrossEntropyGain):
        def forward(self, logits, target, clean):
            return logits[:, 0]

    attack = LogBarrier(eps, 1e-3, 400, barrier=c, margin=1e-3)
    result = attack(Linear(weight), image, torch.zeros(2, dtype=torch.int64), Slope())
    low, high = -torch.full((9,), eps, dtype=torch.float64), torch.full((9,), eps, dtype=torch.float64)
    for _ in range(80):
        middle = (low + high) / 2
        push = weight.double().flatten() - c * (1 / (eps - middle) - 1 / (middle + eps))
        low, high = torch.where(push > 0, middle, low), torch.where(push > 0, high, middle)
    expected = low.view(1, 3, 3).float()
    torch.testing.assert_close(result.image - image, expected.expand(2, 1, 3, 3), atol=1.1e-3, rtol=0)
    delta = (result.image - image).double()
    hessian = c * (1 / (eps - delta) ** 2 + 1 / (delta + eps) ** 2)
    torch.testing.assert_close(result.evidence.curvature.double(), hessian, rtol=1e-3, atol=0)


def test_a_soft_target_is_attacked_too():
    class Half:
        def __init__(self, label):
            self.label = label

        def per_sample(self, logits):
            return 0.5 * F.cross_entropy(logits, self.label, reduction="none")

    backbone, (image, label) = net(), batch()
    result = PGD(EPS)(backbone, image, Half(label), generator=generator())
    assert torch.equal(result.image, PGD(EPS)(backbone, image, label, generator=generator()).image)
    assert result.evidence.survived is None
    with pytest.raises(RectifyError, match="mixtures have several"):
        PGD(EPS)(backbone, image, Half(label), CarliniWagnerMargin())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: PGD(8), "PGD: eps is 8; .* 8/255"),
        (lambda: PGD(0), "PGD: eps is 0"),
        (lambda: PGD(128, norm="l2"), "eps is 128; .* L2 distance"),
        (lambda: FGSM(8), "FGSM: eps is 8"),
        (lambda: NFGSM(8), "NFGSM: eps is 8"),
        (lambda: LogBarrier(8), "LogBarrier: eps is 8"),
        (lambda: PGD(step_size=0), "step_size is 0, so nothing would move"),
        (lambda: PGD(step_size=2.0), "step_size is 2.0, longer than the ball of eps 8/255 is wide.*eps/4"),
        (lambda: LogBarrier(0.1, 0.26), "step_size is 0.26, longer"),
        (lambda: PGD(steps=0), "steps is 0"),
        (lambda: PGD(start="none", restarts=2), "restarts is 2 with start none"),
        (lambda: PGD(norm="l1"), "norm is 'l1'; choose linf or l2"),
        (lambda: PGD(start="zero"), "start is 'zero'; choose uniform, normal or none"),
        (lambda: NFGSM(noise=-1), "noise is -1"),
        (lambda: LogBarrier(barrier=0), "barrier is 0"),
        (lambda: LogBarrier(margin=0.5), "margin is 0.5"),
    ],
)
def test_bad_arguments(build, words):
    with pytest.raises(RectifyError, match=words):
        build()


def test_no_gradients_and_no_labels():
    backbone, (image, label) = net(), batch()
    with torch.inference_mode(), pytest.raises(RectifyError, match=r"set trainer\.inference_mode to false"):
        PGD()(backbone, image, label)
    with torch.inference_mode():
        made = image * 1
    with pytest.raises(RectifyError, match="clone the images"):
        PGD()(backbone, made, label)
    with pytest.raises(RectifyError, match="lacks `label`"):
        PGD()(backbone, image, None)
    with torch.no_grad():
        assert not torch.equal(PGD()(backbone, image, label).image, image)


def test_the_common_rule_of_step_sizes_holds_for_one_step():
    image, label = batch()
    x = PGD(EPS, 2.5 * EPS, 1)(net(), image, label, generator=generator()).image
    assert float((x.double() - image.double()).abs().max()) <= EPS


def test_labels_of_any_integer_type_and_from_inference_mode():
    backbone, (image, label) = net(), batch()
    expected = PGD(steps=2)(backbone, image, label, generator=generator())
    with torch.inference_mode():
        made = label * 1
    for other in (made, label.int(), label.to(torch.uint8)):
        found = PGD(steps=2)(backbone, image, other, generator=generator())
        assert torch.equal(found.image, expected.image)
        assert torch.equal(found.evidence.survived, expected.evidence.survived)


@pytest.mark.parametrize("moved", [lambda x: x * 4 - 2, lambda x: x * 255, lambda x: x / 0])
def test_images_outside_the_unit_range(moved):
    image, label = batch()
    with pytest.raises(RectifyError, match=r"PGD: the images lie in .* outside \[0, 1\]"):
        PGD(steps=1)(net(), moved(image), label)


def test_no_value_is_read_back_to_the_host():
    """On fake tensors any host sync or data-dependent branch raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        backbone, image, label = ResNet(5, 3, width=8), torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
        for build in ATTACKS.values():
            result = build()(backbone, image, label, DivergenceGain(), clean=True)
            assert result.image.shape == image.shape
