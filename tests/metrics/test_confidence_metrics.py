"""Order statistics of confidence: exact mode against float64 loops, the histogram against its own bound."""

import itertools

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    AreaUnderRiskCoverage,
    CalibrationSums,
    ConfidenceMetric,
    EqualMassCalibrationError,
    ExcessRiskCoverage,
    KolmogorovSmirnovError,
    SmoothCalibrationError,
)

N, K = 900, 5
KINDS = [
    KolmogorovSmirnovError,
    SmoothCalibrationError,
    EqualMassCalibrationError,
    lambda **options: EqualMassCalibrationError(10, "l2", **options),
    lambda **options: EqualMassCalibrationError(7, "max", **options),
    AreaUnderRiskCoverage,
    ExcessRiskCoverage,
]


def sample(scale=2.0, right=0.6, n=N):
    logits = torch.randn(n, K) * scale
    return logits, torch.where(torch.rand(n) < right, logits.argmax(1), torch.randint(K, (n,)))


def top(logits, label):
    confidence, prediction = logits.softmax(1).max(1)  # float32, as the metric sees it
    return confidence.double().numpy(), prediction.eq(label).double().numpy()


def value(metric, logits, label, size=128):
    for piece, target in zip(logits.split(size), label.split(size), strict=True):
        metric.update(piece, target)
    return metric.compute().item()


def ks_loop(c, a):
    order, total, worst = np.argsort(c), 0.0, 0.0
    for i in order:
        total += c[i] - a[i]
        worst = max(worst, abs(total) / len(c))
    return worst


def equal_mass_loop(c, a, bins, norm):
    order = np.argsort(c)
    gaps = np.array([abs(np.mean(c[part] - a[part])) for part in np.split(order, bins)])
    return {"l1": gaps.mean(), "l2": np.sqrt((gaps**2).mean()), "max": gaps.max()}[norm]


def aurc_loop(c, a):
    wrong, risks = 0.0, []
    for k, i in enumerate(np.argsort(-c, kind="stable"), 1):
        wrong += 1 - a[i]
        risks.append(wrong / k)
    return np.mean(risks)


def smooth_quadrature(c, a, sigma, points=2000):
    """∫|1/n Σ K(t, c)(c - a)| by the midpoint rule, the reflected kernel as a sum over mirror images."""
    t = (np.arange(points) + 0.5) / points
    total = np.zeros(points)
    for image in range(-2, 3):
        for centre in (c + 2 * image, -c + 2 * image):
            kernel = np.exp(-(((t[:, None] - centre) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
            total += kernel @ (c - a) / len(c)
    return np.abs(total).mean()


def test_exact_values_equal_plain_loops():
    logits, label = sample()
    c, a = top(logits, label)
    assert len(np.unique(c)) > N - 3
    assert value(KolmogorovSmirnovError(exact=True), logits, label) == pytest.approx(ks_loop(c, a), abs=1e-6)
    assert value(AreaUnderRiskCoverage(exact=True), logits, label) == pytest.approx(aurc_loop(c, a), abs=1e-6)
    for bins, norm in itertools.product((10, 15), ("l1", "l2", "max")):
        found = value(EqualMassCalibrationError(bins, norm, exact=True), logits, label)
        assert found == pytest.approx(equal_mass_loop(c, a, bins, norm), abs=1e-6)


def test_smooth_error_is_the_fixed_point_of_the_quadrature():
    for logits, label in (sample(), sample(scale=6.0), sample(scale=0.5)):
        found = value(SmoothCalibrationError(exact=True), logits, label)
        assert smooth_quadrature(*top(logits, label), found) == pytest.approx(found, abs=3e-4)


def wave(n=1500, classes=6):
    """Logits and labels that need no random generator, so that other packages' values on them can stand here."""
    i, k = np.arange(n)[:, None], np.arange(classes)[None]
    logits = 3.5 * np.sin(1.7 * i + 2.3 * k * k) + 1.5 * np.cos(0.37 * i * (k + 1))
    j = np.arange(n)
    label = np.where((j * 37) % 100 < 62, logits.argmax(1), (j * j + 3 * j) % classes)
    return torch.from_numpy(logits), torch.from_numpy(label)


def test_values_of_relplot_and_netcal():
    """relplot 1.0.3 `smECE` (bandwidth 0.11914, found to 1/1024), netcal 1.4.0 `ECE` and `MCE`."""
    logits, label = wave()
    assert value(SmoothCalibrationError(exact=True), logits, label) == pytest.approx(0.118091, abs=1.1e-3)
    sums = CalibrationSums(6)
    sums.update(logits, label)
    found = sums.compute()
    assert found.scores["ece_top_label_l1"] == pytest.approx(0.138517, abs=1e-6)
    assert found.scores["ece_top_label_max"] == pytest.approx(0.353638, abs=1e-6)
    ten = CalibrationSums(6, bins=10)
    ten.update(logits, label)
    assert ten.compute().scores["ece_top_label_l1"] == pytest.approx(0.139097, abs=1e-6)
    assert ten.compute().scores["ece_top_label_max"] == pytest.approx(0.701895, abs=1e-6)


def clustered():
    """Confidences crowded into a few cells, right and wrong ones sorted apart inside each: the bounds' worst case."""
    middle = torch.tensor([0.55, 0.7, 0.9]).repeat_interleave(120)
    inside = torch.linspace(0, 1 / 64, 120).repeat(3)
    c = (middle + inside).double()
    logits = torch.stack((c.log(), (1 - c).log()), 1)
    return logits, (torch.arange(360) % 120 < 50).long()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [sample, lambda: sample(8.0), lambda: sample(0.2), clustered])
def test_histogram_stays_within_its_bound(kind, data):
    logits, label = data()
    exact = value(kind(exact=True), logits, label)
    for cells in (64, 1024):
        metric = kind(cells=cells)
        found = value(metric, logits, label)
        assert abs(found - exact) <= metric.error_bound().item() + 1e-6


def test_bounds_are_small_at_the_default_and_zero_in_exact_mode():
    logits, label = sample(n=5000)
    for kind in KINDS:
        metric = kind()
        value(metric, logits, label)
        assert metric.error_bound() < 4e-3
        single = kind(exact=True)
        value(single, logits, label)
        assert single.error_bound() < (1e-3 if kind is SmoothCalibrationError else 1e-12)


def test_the_bound_of_ks_is_reached():
    # all hits below all misses inside one cell: the sum falls to its lowest in the middle, which a cell cannot show
    logits, label = clustered()
    metric = KolmogorovSmirnovError(cells=16)
    found, exact = value(metric, logits, label), value(KolmogorovSmirnovError(exact=True), logits, label)
    assert exact - found > 0.3 * metric.error_bound().item() > 0


def test_ties_count_as_in_random_order():
    # three samples at one confidence, one of them wrong: the mean over the six orders
    logits = torch.tensor([[0.8, 0.2]]).log().expand(3, 2)
    label = torch.tensor([0, 1, 0])
    orders = [np.mean(np.cumsum(order) / np.arange(1, 4)) for order in itertools.permutations([0, 1, 0])]
    assert value(AreaUnderRiskCoverage(exact=True), logits, label) == pytest.approx(np.mean(orders), abs=1e-6)
    assert value(KolmogorovSmirnovError(exact=True), logits, label) == pytest.approx(0.8 - 2 / 3, abs=1e-6)


def test_excess_is_zero_for_the_best_order_and_the_textbook_limit_is_close():
    n, wrong = 4000, 900
    c = torch.linspace(0.5001, 0.9999, n).double()
    logits = torch.stack((c.log(), (1 - c).log()), 1)
    label = (torch.arange(n) < wrong).long()
    assert value(ExcessRiskCoverage(exact=True), logits, label) == pytest.approx(0, abs=1e-7)
    rate = wrong / n
    limit = rate + (1 - rate) * np.log(1 - rate)
    assert value(AreaUnderRiskCoverage(exact=True), logits, label) == pytest.approx(limit, abs=1e-3)
    assert value(ExcessRiskCoverage(exact=True), logits, label.flip(0)) > 0.2


def test_probabilities_of_zero_and_one():
    sure = torch.tensor([[400.0, 0.0], [400.0, 0.0], [0.0, 400.0], [0.0, 400.0]])
    right = torch.tensor([0, 0, 1, 1])
    for kind in KINDS:
        assert value(kind(), sure, right) == pytest.approx(0, abs=1e-6)
    metric = SmoothCalibrationError()
    value(metric, sure, right)
    assert metric.error_bound() <= 1 / 4096  # no more than the mean gap, however narrow the kernel
    half = torch.tensor([0, 1, 1, 0])  # confidence 1, accuracy 1/2
    assert value(KolmogorovSmirnovError(), sure, half) == pytest.approx(0.5)
    assert value(EqualMassCalibrationError(2), sure, half) == pytest.approx(0.5)
    # one point of residual 1/2: the smoothed mass is 1/2 at any width
    assert value(SmoothCalibrationError(), sure, half) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("exact", [False, True])
def test_merging_in_any_order_equals_one_pass(exact):
    logits, label = sample()
    for kind in KINDS:
        whole = value(kind(exact=exact), logits, label)
        for order in ((0, 1, 2), (2, 0, 1)):
            merged = kind(exact=exact)
            for place in order:
                part = kind(exact=exact)
                part.update(logits.tensor_split(3)[place], label.tensor_split(3)[place])
                merged.merge_state(part) if merged._update_count else merged.update(
                    logits.tensor_split(3)[place], label.tensor_split(3)[place]
                )
            assert merged.compute().item() == pytest.approx(whole, abs=1e-6)


def test_one_state_serves_a_collection_and_the_report():
    logits, label = sample()
    group = MetricCollection(
        {"ks": KolmogorovSmirnovError(), "smooth": SmoothCalibrationError(), "aurc": AreaUnderRiskCoverage()}
    )
    for piece, target in zip(logits.split(64), label.split(64), strict=True):
        group.update(piece, target)
    assert len(group.compute_groups) == 1
    sums = CalibrationSums(K)
    sums.update(logits, label)
    scores = sums.compute().scores
    pairs = {"ks_top_label": "ks", "ece_top_label_smooth": "smooth", "aurc": "aurc"}
    assert {name: scores[name] for name in pairs} == {name: group.compute()[own] for name, own in pairs.items()}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: KolmogorovSmirnovError(cells=100), "cells is 100"),
        (lambda: EqualMassCalibrationError(bins=1), "bins is 1"),
        (lambda: EqualMassCalibrationError(norm="l3"), "norm is 'l3'"),
        (lambda: AreaUnderRiskCoverage(exact=True).compute(), "before any update"),
        (lambda: AreaUnderRiskCoverage().update(torch.randn(3, 1), torch.zeros(3).long()), "at least 2 classes"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_sample_is_nan():
    for kind in KINDS:
        assert kind().compute().isnan()
    assert issubclass(KolmogorovSmirnovError, ConfidenceMetric)
