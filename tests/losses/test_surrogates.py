"""Each surrogate against a plain float64 loop over samples."""

import math

import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import AdversarialCrossEntropy, Focal, Mart, MixedTarget, Trades

B, K = 12, 5


def logits():
    generator = torch.Generator().manual_seed(0)
    adversarial = 3 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    clean = adversarial + torch.randn(B, K, generator=generator, dtype=torch.float64)
    return adversarial, clean, torch.randint(K, (B,), generator=generator)


def probabilities(row):
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def loop(row):
    """Apply a formula of (adversarial probabilities, clean probabilities, label) to each sample."""
    adversarial, clean, label = logits()
    rows = zip(adversarial.tolist(), clean.tolist(), label.tolist(), strict=True)
    return torch.tensor([row(probabilities(a), probabilities(c), y) for a, c, y in rows], dtype=torch.float64)


def kl(q, p):
    return sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))


def bce(q, y):
    wrong = max(v for j, v in enumerate(q) if j != y)
    return -math.log(q[y]) - math.log(1.0001 - wrong + 1e-12)


def test_cross_entropy():
    adversarial, clean, label = logits()
    parts = AdversarialCrossEntropy()(adversarial, None, label)
    torch.testing.assert_close(parts.total(), loop(lambda q, p, y: -math.log(q[y])))
    focal = AdversarialCrossEntropy(Focal(1.0))(adversarial, None, label)
    torch.testing.assert_close(focal.fit, loop(lambda q, p, y: -(1 - q[y]) * math.log(q[y])))
    assert clean is not None and parts.robust is None


@pytest.mark.parametrize("on", ["natural", "adversarial"])
def test_trades(on):
    adversarial, clean, label = logits()
    parts = Trades(7.0, on)(adversarial, clean, label)
    torch.testing.assert_close(parts.fit, loop(lambda q, p, y: -math.log((p if on == "natural" else q)[y])))
    torch.testing.assert_close(parts.robust, loop(lambda q, p, y: kl(q, p)))
    torch.testing.assert_close(parts.total(), parts.fit + 7 * parts.robust)


def test_mart_with_its_constants():
    adversarial, clean, label = logits()
    parts = Mart(5.0)(adversarial, clean, label)
    torch.testing.assert_close(parts.fit, loop(lambda q, p, y: bce(q, y)), rtol=1e-10, atol=0)
    torch.testing.assert_close(
        parts.robust, loop(lambda q, p, y: kl(q, p) * (1.0000001 - p[y])), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("surrogate", [Trades(), Mart()], ids=["trades", "mart"])
def test_the_clean_branch_is_trained_too(surrogate):
    """The divergence is not detached: its gradient by finite differences, for both branches."""
    adversarial, clean, label = logits()
    clean, adversarial = clean.requires_grad_(), adversarial.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: surrogate(a, c, label).robust.sum(), (adversarial, clean))
    for branch in torch.autograd.grad(surrogate(adversarial, clean, label).robust.sum(), (adversarial, clean)):
        assert float(branch.abs().max()) > 1e-3


@pytest.mark.parametrize("surrogate", [AdversarialCrossEntropy(), Trades(), Mart()], ids=["ce", "trades", "mart"])
def test_certain_logits_stay_finite(surrogate):
    """A probability of 1 in float32, right and wrong: MART's constants are there for this."""
    adversarial = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    clean = torch.tensor([[0, 0, 200.0], [200.0, 0, 0]], requires_grad=True)
    total = surrogate(adversarial, clean, torch.tensor([0, 0])).total()
    total.sum().backward()
    assert bool(total.isfinite().all()) and bool(adversarial.grad.isfinite().all())


def test_mixtures():
    adversarial, clean, label = logits()
    target = MixedTarget(torch.stack([label, label.roll(1)], 1), torch.tensor([[0.7, 0.3]]).expand(B, 2))
    for surrogate in (AdversarialCrossEntropy(), Trades()):
        one = surrogate(adversarial, clean, label).fit
        other = surrogate(adversarial, clean, label.roll(1)).fit
        torch.testing.assert_close(
            surrogate(adversarial, clean, target).fit, 0.7 * one + 0.3 * other, rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Trades(0), "Trades: beta is 0"),
        (lambda: Mart(-1), "Mart: beta is -1"),
        (lambda: Trades(cross_entropy="clean"), "cross_entropy is 'clean'; choose natural or adversarial"),
    ],
)
def test_bad_arguments(build, words):
    with pytest.raises(RectifyError, match=words):
        build()
