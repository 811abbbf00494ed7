"""Mixup against float64 one-hot algebra, scipy's Beta and the label rules' definitions."""

import pytest
import torch
from scipy import stats

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import Mixup, PowerLabel, mixup


def draw(objective: Mixup, n: int = 64, seed: int = 0):
    return objective.draw(torch.zeros(n, 1, 2, 2), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_lambda_is_beta(alpha):
    lam = draw(Mixup(alpha), 5000).image_weights[:, 0].double()
    # a share of λ rounds to exactly 0 or 1 for a small alpha, hence the discrete-safe comparison on the inside
    inside = lam[(lam > 1e-6) & (lam < 1 - 1e-6)].numpy()
    low, high = stats.beta.cdf([1e-6, 1 - 1e-6], alpha, alpha)
    assert stats.kstest(inside, lambda x: (stats.beta.cdf(x, alpha, alpha) - low) / (high - low)).pvalue > 1e-3
    assert torch.isfinite(lam).all()
    assert abs(len(inside) / 5000 - (high - low)) < 0.03


def test_partner_is_a_permutation_and_lambda_is_per_sample():
    plan = draw(Mixup())
    assert torch.equal(plan.partners[:, 0], torch.arange(64))
    assert torch.equal(plan.partners[:, 1].sort().values, torch.arange(64))
    assert not torch.equal(plan.partners[:, 1], torch.arange(64))
    assert plan.image_weights[:, 0].unique().numel() > 60
    assert draw(Mixup(per="batch")).image_weights[:, 0].unique().numel() == 1


def test_rules_of_the_label_weight():
    lam = draw(Mixup()).image_weights[:, 0]
    assert torch.equal(draw(Mixup()).label_weights[:, 0], lam)
    fixed = draw(Mixup(label=0.7)).label_weights[:, 0]
    assert torch.allclose(fixed, torch.where(lam > 0.5, 0.7, 0.3))
    assert torch.allclose(draw(Mixup(label=0.3)).label_weights[:, 0], fixed)
    power = draw(Mixup(label=PowerLabel(2.0))).label_weights[:, 0].double()
    x = torch.maximum(lam, 1 - lam).double()
    heavier = torch.maximum(x * x, torch.tensor(0.5).double())
    assert torch.allclose(power, torch.where(lam > 0.5, heavier, 1 - heavier), atol=1e-6)
    free = draw(Mixup(label=lambda lam: 1 - lam)).label_weights[:, 0]  # contradicts the image: reflected
    assert torch.allclose(free, lam)
    plan = draw(Mixup(0.5, label="independent"), 4000)
    other, lam = plan.label_weights[:, 0], plan.image_weights[:, 0]
    assert ((other - 0.5) * (lam - 0.5) >= 0).all()
    distance = (other - 0.5).abs() * 2
    assert (
        stats.kstest(distance.double().numpy(), lambda d: 2 * stats.beta.cdf(0.5 + d / 2, 0.5, 0.5) - 1).pvalue > 1e-3
    )
    assert abs(torch.corrcoef(torch.stack([distance, (lam - 0.5).abs()]))[0, 1]) < 0.06


def test_functional_twin_needs_no_lightning_and_leaves_its_input():
    image, label = torch.rand(8, 3, 4, 4), torch.arange(8)
    before = image.clone()
    mixed, target = mixup(image, label, alpha=0.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(image, before)
    lam, partner = target.weights[:, 0].double(), target.labels[:, 1]  # the labels are the positions
    assert torch.equal(target.labels[:, 0], label)
    assert torch.equal(partner.sort().values, label)
    assert torch.allclose(target.weights.double().sum(1), torch.ones(8).double(), atol=1e-6)
    assert len(lam.unique()) == 8
    weight = lam[:, None, None, None]
    by_hand = weight * image.double() + (1 - weight) * image.double()[partner]
    assert torch.allclose(mixed.double(), by_hand, atol=1e-6)
    logits = torch.randn(8, 8)
    losses = -logits.double().log_softmax(1)
    by_hand = lam * losses[label, label] + (1 - lam) * losses[label, partner]
    assert target.loss(logits).item() == pytest.approx(by_hand.mean().item(), rel=1e-6)
    fixed = mixup(image, label, label_rule=0.8)[1].weights[:, 0]
    assert torch.allclose(torch.maximum(fixed, 1 - fixed), torch.tensor(0.8))


@pytest.mark.parametrize(
    "arguments",
    [
        {"label": lambda lam: 2 * lam},
        {"label": lambda lam: lam.mean()},
        {"label": lambda lam: lam / 0},
        {"label": lambda lam: 1.0},
        {"alpha": -1.0},
        {"alpha": float("nan")},
        {"per": "pair"},
        {"label": 1.5},
        {"label": "other"},
        {"stop": -0.1},
    ],
)
def test_bad_arguments_name_themselves(arguments):
    with pytest.raises(RectifyError, match=next(iter(arguments))):
        Mixup(**arguments)


def test_bad_power():
    with pytest.raises(RectifyError, match="power"):
        PowerLabel(0.0)


def test_a_label_functions_fault_is_named():
    with pytest.raises(RectifyError, match=r"label is a function with the value 1\.125 at 0\.5625"):
        Mixup(label=lambda lam: 2 * lam)


def test_bytes_are_not_mixed():
    with pytest.raises(RectifyError, match=r"Images to mix are torch\.uint8; make them float first"):
        mixup(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
