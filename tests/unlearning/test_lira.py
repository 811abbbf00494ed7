"""LiRA and RMIA against scipy's densities, brute force, and Gaussian toys with known answers."""

import math

import pytest
import torch
from scipy.stats import norm

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import draw_members, lira_log_ratio, logit_margin, rmia_scores, train_shadows, u_lira


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_ratio_is_scipys_with_masked_shadows():
    target, inside, outside = normal(2, 4), normal(6, 4, seed=1) + 1, normal(5, 4, seed=2)
    mask = normal(6, 4, seed=3) > -0.5
    mask[:2] = True
    found = lira_log_ratio(target, inside, outside, mask)
    for i in range(4):
        kept = inside[mask[:, i], i]
        first = norm.logpdf(target[:, i], kept.mean(), kept.std())
        second = norm.logpdf(target[:, i], outside[:, i].mean(), outside[:, i].std())
        assert found[:, i].tolist() == pytest.approx((first - second).tolist(), rel=1e-9)
    shared = lira_log_ratio(target, inside, outside, shared_variance=True)
    deviations = [side.var(0).mean().sqrt() for side in (inside, outside)]
    expected = norm.logpdf(target, inside.mean(0), deviations[0]) - norm.logpdf(target, outside.mean(0), deviations[1])
    torch.testing.assert_close(shared, torch.from_numpy(expected))


def test_u_lira_of_shifted_normals_has_the_known_auc():
    """Two unit normals apart by δ: the best test has AUC Φ(δ/√2), and 64 shadows a side come close to it."""
    distance, sizes = 1.5, (64, 200)
    curve = u_lira(normal(*sizes) + distance, normal(*sizes, seed=1))
    assert curve.auc == pytest.approx(norm.cdf(distance / math.sqrt(2)), abs=0.02)
    # the Neyman-Pearson rate at a false-positive rate of 5 %
    assert curve.tpr_at(0.05) == pytest.approx(norm.cdf(distance - norm.ppf(0.95)), abs=0.04)


def test_u_lira_of_a_method_that_equals_retraining_guesses():
    assert u_lira(normal(24, 400), normal(24, 400, seed=1)).auc == pytest.approx(0.5, abs=0.03)


def test_shadows_share_the_samples_evenly_and_keep_what_they_say():
    member = draw_members(8, 50, seed=3)
    assert member.sum(0).tolist() == [4] * 50
    assert len({tuple(row) for row in member.T.tolist()}) > 10
    label = torch.arange(50) % 3
    calls = []

    def train(seed, members):
        calls.append((seed, members))
        logits = torch.zeros(50, 3)
        logits[members, label[members]] = 4.0
        return logits

    shadows = train_shadows(train, label, 8, seed=3)
    assert [seed for seed, _ in calls] == list(range(3, 11))
    torch.testing.assert_close(shadows.member, member)
    for row, (_, members) in zip(shadows.member, calls, strict=True):
        assert row.nonzero().flatten().tolist() == members.tolist()
    expected = logit_margin(torch.tensor([[4.0, 0, 0], [0, 0, 0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(shadows.margin, torch.where(member, *expected))
    assert shadows.confidence[~member].unique().tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize("offline", [None, 0.3])
def test_rmia_is_the_brute_force_share_of_pairs(offline):
    draw = torch.Generator().manual_seed(0)
    target, population = (torch.rand(n, generator=draw) for n in (30, 40))
    reference, others = (torch.rand(3, n, generator=draw) for n in (30, 40))
    found = rmia_scores(target, population, reference, others, gamma=1.5, offline=offline)

    def ratio(p, models):
        mean = models.double().mean(0)
        if offline is not None:
            mean = (1 + offline) / 2 * mean + (1 - offline) / 2
        return (p.double() / mean).tolist()

    x, z = ratio(target, reference), ratio(population, others)
    assert found.tolist() == pytest.approx([sum(a / b >= 1.5 for b in z) / 40 for a in x])


def test_too_few_models_are_refused():
    with pytest.raises(RectifyError, match="2 or more inside"):
        lira_log_ratio(normal(4), normal(1, 4), normal(5, 4))
    with pytest.raises(RectifyError, match="3 or more retrained"):
        u_lira(normal(4, 4), normal(2, 4))
    with pytest.raises(RectifyError, match="train more"):
        draw_members(1, 10)
    with pytest.raises(RectifyError, match="one or more reference"):
        rmia_scores(torch.rand(3), torch.rand(3), torch.rand(0, 3), torch.rand(0, 3))
    with pytest.raises(RectifyError, match="at least 1"):
        rmia_scores(torch.rand(3), torch.rand(3), torch.rand(1, 3), torch.rand(1, 3), gamma=0.5)
    with pytest.raises(RectifyError, match="50 are audited"):
        train_shadows(lambda seed, members: torch.zeros(3, 2), torch.zeros(50, dtype=torch.int64), 4)
