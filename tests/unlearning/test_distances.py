"""Distances between models against hand values, numpy's histogram and scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import t
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import (
    average_gap,
    klom_distance,
    prediction_half_width,
    probe_accuracy,
    student_interval,
    tug_of_war,
    zero_retrain_forgetting,
)


def test_average_gap_and_tow_by_hand():
    """The published row of SalUn at 10 % against its retrained model, whose printed Avg. Gap is 1.15."""
    salun = {"UA": 2.85, "RA": 99.62, "TA": 93.93, "MIA_confidence": 14.39}
    retrain = {"UA": 5.24, "RA": 100.0, "TA": 94.26, "MIA_confidence": 12.88}
    assert average_gap(salun, retrain) == pytest.approx((2.39 + 0.38 + 0.33 + 1.51) / 4)
    assert round(average_gap(salun, retrain), 2) == 1.15
    assert tug_of_war(salun, retrain) == pytest.approx((1 - 0.0239) * (1 - 0.0038) * (1 - 0.0033))
    assert (average_gap(salun, salun), tug_of_war(salun, salun)) == (0, 1)


def test_klom_is_the_divergence_of_numpys_histograms():
    rng = np.random.default_rng(0)
    unlearned, oracle = rng.normal(1, 2, (50, 6)), rng.normal(0, 1, (40, 6))
    unlearned[0, 0], unlearned[1, 1] = 500, -np.inf  # clipped
    found = klom_distance(torch.from_numpy(unlearned), torch.from_numpy(oracle))
    for i in range(6):
        u, o = np.clip(unlearned[:, i], -100, 100), np.clip(oracle[:, i], -100, 100)
        edges = np.linspace(min(u.min(), o.min()), max(u.max(), o.max()), 21)
        p, q = np.histogram(u, edges)[0] / 50, np.histogram(o, edges)[0] / 40
        expected = sum(a * np.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a)
        assert float(found[i]) == pytest.approx(expected, rel=1e-9)


def test_klom_of_equal_models_is_zero():
    margins = torch.randn(9, 4)
    assert klom_distance(margins, margins).abs().max() < 1e-12
    assert klom_distance(torch.ones(5, 2), torch.ones(5, 2)).tolist() == [0, 0]
    with pytest.raises(RectifyError, match="at least 2"):
        klom_distance(margins[:1], margins)


def test_zrf_against_scipys_jensen_shannon():
    a, b = torch.randn(20, 5) * 3, torch.randn(20, 5)
    distance = [
        jensenshannon(p, q, base=2) ** 2 for p, q in zip(a.softmax(1).numpy(), b.softmax(1).numpy(), strict=True)
    ]
    assert zero_retrain_forgetting(a, b) == pytest.approx(1 - np.mean(distance), rel=1e-5)
    assert zero_retrain_forgetting(a, a) == pytest.approx(1, abs=1e-12)
    far = torch.tensor([[100.0, -torch.inf]]), torch.tensor([[-torch.inf, 100.0]])
    assert zero_retrain_forgetting(*far) == pytest.approx(0, abs=1e-12)


def test_linear_probe_is_scikit_learns_ridge_classifier():
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 12, generator=draw) * 0.7
    label = torch.randint(4, (260,), generator=draw)
    x = centres[label] + torch.randn(260, 12, generator=draw)
    x[:, 3] = 1.0  # a feature that says nothing
    found = probe_accuracy(x[:160], label[:160] + 5, x[160:], label[160:] + 5)
    scale = StandardScaler().fit(x[:160])
    model = RidgeClassifier(alpha=1e-3 * 160).fit(scale.transform(x[:160]), label[:160])
    assert found == pytest.approx(100 * model.score(scale.transform(x[160:]), label[160:]))
    assert 40 < found < 100
    with pytest.raises(RectifyError, match="linear probe"):
        probe_accuracy(x, label, x[:, :5], label)


def test_student_interval_against_scipy():
    values = [3.1, 2.7, 4.4]
    found = student_interval(values)
    low, high = t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / np.sqrt(3))
    assert (found["mean"] - found["half_interval"], found["mean"] + found["half_interval"]) == pytest.approx(
        (low, high)
    )
    assert prediction_half_width(values) == pytest.approx(2 * found["half_interval"])  # √(1 + 1/3) / √(1/3)
    assert np.isnan(student_interval([1.0])["half_interval"])
