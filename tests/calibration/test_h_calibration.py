"""Exact clusters against brute force, the windowed gap against loops and finite differences."""

import itertools

import numpy as np
import pytest
import torch

from lightning_rectify.calibration import (
    HCalibration,
    PiecewiseLinear,
    TemperatureMixture,
    cluster_sizes,
    interval_clusters,
    window_means,
    windowed_gap,
)


def cost(value, weight, ends):
    total = 0.0
    for start, stop in itertools.pairwise((0, *ends, len(value))):
        own, heavy = value[start:stop], weight[start:stop]
        total += (heavy * (own - np.average(own, weights=heavy)) ** 2).sum()
    return total


@pytest.mark.parametrize("clusters", [1, 2, 3, 4])
def test_clusters_are_the_best_of_all_partitions(clusters):
    rng = np.random.default_rng(clusters)
    value, weight = np.sort(rng.beta(0.3, 1, 12)), rng.integers(1, 5, 12).astype(float)
    best = min(cost(value, weight, ends) for ends in itertools.combinations(range(1, 12), clusters - 1))
    sizes = cluster_sizes(torch.from_numpy(value), torch.from_numpy(weight), clusters)
    assert len(sizes) == clusters
    assert cost(value, weight, sizes.cumsum(0)[:-1].tolist()) == pytest.approx(best, abs=1e-12)


def test_clusters_of_many_values_keep_far_groups_apart():
    ranked = torch.cat([torch.rand(300).sort().values * 0.05 + middle for middle in (0.0, 0.4, 0.9)])
    assert interval_clusters(ranked, 3).bincount().tolist() == pytest.approx([300, 300, 300], abs=8)
    assert interval_clusters(torch.rand(5).sort().values, 15).tolist() == [0, 1, 2, 3, 4]


def test_window_means_equal_a_loop():
    value = torch.randn(50).double()
    padded = np.pad(value.numpy(), 7)
    expected = [padded[i : i + 15].mean() for i in range(50)]
    np.testing.assert_allclose(window_means(value, 7), expected, atol=1e-12)


def test_the_gap_equals_a_loop():
    logits, label = torch.randn(40, 3).double(), torch.randint(3, (40,))
    p, y = logits.softmax(1), torch.nn.functional.one_hot(label, 3)
    order = np.argsort(p.flatten().numpy())
    gap = (p - y).flatten().numpy()[order]
    padded = np.pad(gap, 5)
    excess = np.maximum(np.abs([padded[i : i + 11].sum() / 11 for i in range(len(gap))]) - 0.02, 0)
    group = interval_clusters(p.flatten().sort().values, 4).numpy()
    expected = np.mean([excess[group == g].mean() for g in range(4)])
    assert windowed_gap(p, y, half=5, clusters=4, tolerance=0.02) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [TemperatureMixture, PiecewiseLinear])
def test_gradients_of_maps_and_gap_equal_finite_differences(kind):
    logits, label = torch.randn(60, 3).double() * 3, torch.randint(3, (60,))
    outcome = torch.nn.functional.one_hot(label, 3).double()
    start = [part.requires_grad_() for part in kind(4, torch.tensor(0.7, dtype=torch.float64)).parameters]
    loss = lambda *parts: windowed_gap(kind.apply(logits, *parts).exp(), outcome, half=8, clusters=3)  # noqa: E731
    found = torch.autograd.grad(loss(*start), start)
    for place, part in enumerate(start):
        for entry in range(len(part)):
            ends = []
            for sign in (1, -1):
                moved = [other.detach().clone() for other in start]
                moved[place][entry] += sign * 1e-7
                ends.append(loss(*moved).item())
            assert found[place][entry] == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", [TemperatureMixture, PiecewiseLinear])
def test_maps_start_as_a_temperature_and_keep_the_order(kind):
    logits = torch.randn(200, 5).double() * 2
    start = kind(4, torch.tensor(0.7, dtype=torch.float64)).parameters
    if kind is PiecewiseLinear:
        expected = ((0.7 + 1e-3) * logits).log_softmax(1)
        torch.testing.assert_close(kind.apply(logits, *start), expected, atol=1e-9, rtol=0)
    bent = kind.apply(logits * 20, *[part * torch.rand_like(part) * 3 - 0.1 for part in start])
    assert torch.equal(bent.argsort(1), logits.argsort(1)) or kind is TemperatureMixture
    assert torch.equal(bent.argmax(1), logits.argmax(1))


def test_it_is_never_worse_than_temperature_by_its_own_criterion():
    from lightning_rectify.calibration import TemperatureScaling
    from lightning_rectify.metrics import ClassWiseCalibrationError

    true = torch.randn(1500, 4) * 2
    label = torch.distributions.Categorical(logits=true).sample()
    logits = true.sign() * true.abs() ** 1.6  # no temperature undoes this
    errors = []
    for calibration in (TemperatureScaling(4), HCalibration(4, steps=60, mixtures=(4,), segments=(5,))):
        metric = ClassWiseCalibrationError(4)
        metric.update(calibration.fit(logits, label)(logits), label)
        errors.append(metric.compute().item())
    assert errors[1] <= errors[0] + 1e-6
