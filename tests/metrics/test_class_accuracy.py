"""Sums by class against counting by hand, and energies against numpy."""

import math

import numpy as np
import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    ClassAccuracy,
    EnergySums,
    accuracy_disparity,
    class_accuracy_std,
    tail_accuracy,
    worst_class_accuracy,
)


def test_scores_equal_counting_by_hand():
    label = torch.randint(7, (500,))
    label[label == 4] = 3  # a class without samples
    right = torch.rand(500) < 0.2 + 0.1 * label
    metric = ClassAccuracy(7)
    for rows in torch.arange(500).split(64):
        metric.update(right[rows], label[rows])
    found = metric.compute()
    shares = {c: np.mean([bool(r) for r, y in zip(right, label, strict=True) if y == c]) for c in range(7) if c != 4}
    assert math.isnan(found.accuracy[4]) and found.samples == 500
    for c, share in shares.items():
        assert float(found.accuracy[c]) == pytest.approx(share, abs=1e-12)
    worst = sorted(shares.values())
    scores = found.scores()
    assert scores[""] == pytest.approx(float(right.float().mean()))
    assert scores["worst_class"] == pytest.approx(worst[0])
    assert scores["tail30"] == pytest.approx(np.mean(worst[:2]))  # ⌈0.3 · 6⌉
    assert scores["class_std"] == pytest.approx(np.std(worst))
    assert scores["disparity"] == pytest.approx(worst[-1] - worst[0])


@pytest.mark.parametrize(("classes", "worst"), [(10, 3), (100, 30), (7, 3), (1, 1), (70, 21)])
def test_the_tail_is_a_whole_number_of_classes(classes, worst):
    accuracy = torch.linspace(0, 1, classes, dtype=torch.float64)[torch.randperm(classes)]
    assert tail_accuracy(accuracy) == pytest.approx(float(accuracy.sort().values[:worst].mean()))
    assert tail_accuracy(accuracy, 1.0) == pytest.approx(float(accuracy.mean()))


def test_nothing_is_no_number():
    nothing = torch.full((3,), torch.nan)
    for score in (worst_class_accuracy, tail_accuracy, class_accuracy_std, accuracy_disparity):
        assert math.isnan(score(nothing))
    with pytest.raises(RectifyError, match="share is 0"):
        tail_accuracy(nothing, 0)


def test_energies_equal_numpy():
    clean, attacked = torch.randn(2, 300, 5) * 6
    attacked[0] = 900.0  # beyond the histogram
    metric = EnergySums()
    for rows in torch.arange(300).split(70):
        metric.update(clean[rows], attacked[rows])
    found = metric.compute()
    energy, other = (-np.logaddexp.reduce(x.double().numpy(), axis=1) for x in (clean, attacked))
    assert found.means == pytest.approx((energy.mean(), other.mean(), (energy - other).mean()))
    for row, values in enumerate((energy, other, energy - other)):
        edges = np.linspace(-64, 64, found.histograms.shape[1] + 1)
        expected, _ = np.histogram(np.clip(values, -64, 64 - 1e-6), edges)
        assert found.histograms[row].tolist() == expected.tolist()
    assert int(found.histograms.sum()) == 900
