"""Each weighting against a plain float64 loop over samples."""

import math

import pytest
import torch

from lightning_rectify.attacks import Evidence
from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import (
    ClassBalancedWeights,
    EnergyWeights,
    GeometryWeights,
    KLDROWeights,
    MarginWeights,
    MixedTarget,
    Seen,
    UniformWeights,
)

B, K, STEPS = 10, 4, 5


def seen(seed=0, progress=0.5, **changed):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    label = torch.randint(K, (B,), generator=generator)
    survived = torch.randint(STEPS + 1, (B,), generator=generator)
    parts = {
        "loss": random(B).abs() * 3, "adversarial": 2 * random(B, K), "clean": 4 * random(B, K), "label": label,
        "target": label, "evidence": Evidence(survived, STEPS, random(B, K)), "progress": progress,
    }  # fmt: skip
    return Seen(**{**parts, **changed})


def close(weights, expected):
    torch.testing.assert_close(weights.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def mean_one(values):
    return [v * len(values) / sum(values) for v in values]


def test_uniform():
    close(UniformWeights()(seen()), [1.0] * B)


def test_energy():
    """1/log(1 + exp(|E|)), also where E is above 0."""
    batch = seen(clean=torch.cat([seen().clean[:5], seen().clean[:5] - 9]))
    energies = [-math.log(sum(math.exp(z) for z in row)) for row in batch.clean.tolist()]
    assert min(energies) < 0 < max(energies)
    weights = [1 / math.log(1 + math.exp(abs(e))) for e in energies]
    close(EnergyWeights()(batch), weights)
    close(EnergyWeights(normalize=True)(batch), [w * len(weights) / sum(weights) for w in weights])


@pytest.mark.parametrize("shape", ["tanh", "sigmoid", "discrete"])
def test_geometry(shape):
    """κ/⌊K/2⌋ with K = 5: half of five is 2."""
    batch, weights = seen(), []
    for kappa in batch.evidence.survived.tolist():
        inner = -1 + 5 * (2 - kappa) / 2
        weights.append(
            {
                "tanh": (math.tanh(inner) + 1) / 2,
                "sigmoid": 1 / (1 + math.exp(-inner)),
                "discrete": (STEPS + 1 - kappa) / (STEPS + 1),
            }[shape]
        )
    close(GeometryWeights(shape=shape)(batch), mean_one(weights))


@pytest.mark.parametrize(("slope", "bias", "normalize"), [(10, -0.5, False), (2, 0, False), (10, -0.5, True)])
def test_margin(slope, bias, normalize):
    batch, weights = seen(), []
    for row, y in zip(batch.adversarial.tolist(), batch.label.tolist(), strict=True):
        p = [math.exp(z) / sum(map(math.exp, row)) for z in row]
        margin = max(v for j, v in enumerate(p) if j != y) - p[y]
        weights.append(3 / (1 + math.exp(-slope * (margin + bias))))
    close(MarginWeights(slope, bias, normalize)(batch), mean_one(weights) if normalize else weights)


@pytest.mark.parametrize("kind", ["effective", "inverse"])
def test_class_balanced(kind):
    counts = [5000, 1000, 50, 700]
    number = [1 - 0.9999**n if kind == "effective" else n for n in counts]
    weights = [max(number) / number[y] for y in seen().label.tolist()]
    close(ClassBalancedWeights(counts, kind)(seen()), mean_one(weights))
    # 78.9 of step-100 data is the ratio in the published code
    if kind == "effective":
        assert abs(float(ClassBalancedWeights([5000, 50]).class_weight[1]) - 78.9) < 0.1


def test_class_balanced_mixtures_and_pytorch_itself():
    label, counts = seen().label, [5, 1, 2, 9]
    weighting = ClassBalancedWeights(counts, "inverse")
    loss = torch.rand(B, dtype=torch.float64)
    class_weight = torch.tensor([9 / 5, 9, 4.5, 1], dtype=torch.float64)
    logits = torch.randn(B, K, dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    expected = torch.nn.functional.cross_entropy(logits, label, weight=class_weight)
    torch.testing.assert_close((weighting(seen()) * loss).mean(), expected, rtol=1e-6, atol=0)
    pairs = torch.stack([label, label.flip(0)], 1)
    mixed = MixedTarget(pairs, torch.tensor([[0.75, 0.25]], dtype=torch.float64).expand(B, 2))
    each = [0.75 * class_weight[a].item() + 0.25 * class_weight[b].item() for a, b in pairs.tolist()]
    close(weighting(seen(target=mixed)), mean_one(each))


def test_kl_dro_follows_the_moving_average():
    r, eta, average = 0.8, 0.3, None
    weighting = KLDROWeights(r, eta)
    for step in range(4):
        batch = seen(step)
        heat = [math.exp(loss / r) for loss in batch.loss.tolist()]
        now = sum(heat) / B
        average = now if average is None else (1 - eta) * average + eta * now
        expected = [h / average for h in heat]
        close(weighting(batch, update=False), expected)  # a look ahead changes nothing
        close(weighting(batch), expected)
        assert max(expected) <= B / eta
    assert abs(math.exp(float(weighting.log_average)) - average) < 1e-5 * average


def test_kl_dro_is_the_optimum_of_its_problem():
    """No random distribution reaches Σ w·l - r·KL(w || uniform) of the weights; its value is r·log-mean-exp(l/r)."""
    r, batch = 0.7, seen()
    w = KLDROWeights(r, 1.0)(batch) / B
    value = float((w * batch.loss).sum() - r * (w * (B * w).log()).sum())
    assert abs(value - r * float(torch.logsumexp(batch.loss / r, 0) - math.log(B))) < 1e-9
    for _ in range(200):
        other = torch.rand(B, dtype=torch.float64) ** 3 + 1e-9
        other /= other.sum()
        assert float((other * batch.loss).sum() - r * (other * (B * other).log()).sum()) < value


def test_kl_dro_between_the_uniform_weights_and_the_worst_sample():
    batch = seen()
    close(KLDROWeights(1e9, 1.0)(batch), [1.0] * B)
    worst = [0.0] * B
    worst[int(batch.loss.argmax())] = float(B)
    close(KLDROWeights(1e-4, 1.0)(batch), worst)  # exp(l/r) itself would overflow
    assert bool(KLDROWeights(1e-4, 0.1)(batch).isfinite().all())


def test_kl_dro_priors():
    r, batch = 1.5, seen()
    prior = mean_one(GeometryWeights()(batch).tolist())
    for weighting, pi in (
        (KLDROWeights(r, 1.0, GeometryWeights()), prior),
        (
            KLDROWeights(r, 1.0, [0.1, 0.2, 0.3, 0.4]),
            mean_one([[0.1, 0.2, 0.3, 0.4][y] for y in batch.label.tolist()]),
        ),
    ):
        heat = [p * math.exp(loss / r) for p, loss in zip(pi, batch.loss.tolist(), strict=True)]
        close(weighting(batch), mean_one(heat))
    assert KLDROWeights(prior=GeometryWeights()).least_steps == 2


def test_the_moving_average_is_saved():
    one, two = KLDROWeights(), KLDROWeights()
    one(seen(0))
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(seen(1)), two(seen(1)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "build",
    [
        lambda start: EnergyWeights(start),
        lambda start: GeometryWeights(start=start),
        lambda start: MarginWeights(start=start),
        lambda start: KLDROWeights(start=start),
        lambda start: ClassBalancedWeights([1, 2, 3, 4], defer=start),
    ],
)
def test_a_weighting_sets_in_at_its_start(build):
    weighting = build(0.6)
    assert torch.equal(weighting(seen(progress=0.59)), torch.ones(B, dtype=torch.float64))
    assert not torch.equal(weighting(seen(progress=0.6)), torch.ones(B, dtype=torch.float64))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: KLDROWeights(0), "temperature is 0; it must be above 0"),
        (lambda: KLDROWeights(-1), "temperature is -1"),
        (lambda: KLDROWeights(momentum=0), r"momentum is 0; it must lie in \(0, 1\]"),
        (lambda: KLDROWeights(prior=[0.5, 0.6]), "prior sums to 1.1; class probabilities sum to 1"),
        (lambda: KLDROWeights(prior=[1.5, -0.5]), "prior holds -0.5; the probability of each class must be above 0"),
        (lambda: KLDROWeights(prior=[1, 0]), "prior holds 0"),
        (lambda: KLDROWeights(prior=[0.5, 0.5]).setup(ResNet(5)), "prior has 2 entries for 5 classes"),
        (lambda: KLDROWeights(prior=[0.5, 0.5])(seen()), "prior has 2 entries for 4 classes"),
        (lambda: KLDROWeights(prior=ClassBalancedWeights([3, 1])).setup(ResNet(5)), "counts has 2 entries"),
        (lambda: ClassBalancedWeights().setup(ResNet(5)), "counts is missing and the data do not tell them; give the"),
        (lambda: ClassBalancedWeights()(seen()), "counts is missing and the data do not tell them; give the"),
        (lambda: ClassBalancedWeights([3, 0]), "counts holds 0"),
        (lambda: ClassBalancedWeights([3, 1], "inverted"), "kind is 'inverted'"),
        (lambda: ClassBalancedWeights([3, 1], beta=1), "beta is 1"),
        (lambda: GeometryWeights(shape="linear"), "shape is 'linear'"),
        (lambda: EnergyWeights(start=2), "EnergyWeights: start is 2"),
        (lambda: MarginWeights(term="first"), "term is 'first'; choose all or robust"),
        (lambda: ClassBalancedWeights([3, 1]).setup(ResNet(5)), "counts has 2 entries for 5 classes"),
    ],
)
def test_bad_arguments(build, words):
    with pytest.raises(RectifyError, match=words):
        build()
