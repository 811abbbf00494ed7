"""Curves and rates at a threshold against scikit-learn and against counting."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from sklearn.metrics import roc_curve

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    PairHistogram,
    class_rates,
    det,
    equal_error_rate,
    roc,
    tar_at_far,
    threshold_at_far,
)

GENERATOR = torch.Generator().manual_seed(2)
LABELS = torch.randint(12, (240,), generator=GENERATOR)
CENTRES = torch.randn(12, 8, generator=GENERATOR)
ROWS = F.normalize(CENTRES[LABELS] + 1.2 * torch.randn(240, 8, generator=GENERATOR), dim=1)
COSINE = (ROWS.double() @ ROWS.double().T).numpy()
SAME = (LABELS[:, None] == LABELS).numpy()
PAIRS = np.triu(np.ones_like(SAME), 1).astype(bool)


@pytest.fixture(scope="module")
def histogram():
    return PairHistogram.of(ROWS, LABELS, bins=16384)


@pytest.fixture(scope="module")
def reference():
    far, tar, _ = roc_curve(SAME[PAIRS], COSINE[PAIRS], drop_intermediate=False)
    return far, tar


def test_roc_and_det(histogram, reference):
    curve = roc(histogram)
    for place in (2000, 8192, 12000, 15000):
        threshold = float(curve.cosine[place])
        accepted = threshold <= COSINE
        assert float(curve.far[place]) == pytest.approx(accepted[PAIRS & ~SAME].mean(), abs=1e-12)
        assert float(curve.tar[place]) == pytest.approx(accepted[PAIRS & SAME].mean(), abs=1e-12)
    assert bool((curve.far.diff() >= 0).all()) and bool((curve.distance.diff() > 0).all())
    across, down = det(histogram)
    drawn = (curve.far > 0) & (curve.far < 1) & (curve.frr > 0) & (curve.frr < 1)
    np.testing.assert_allclose(across, norm.ppf(curve.far[drawn]), atol=1e-9)
    np.testing.assert_allclose(down, norm.ppf(curve.frr[drawn]), atol=1e-9)


@pytest.mark.parametrize("far", [1e-3, 0.01, 0.1, 0.5])
def test_threshold_and_tar_at_far(histogram, reference, far):
    threshold = threshold_at_far(histogram, far)
    assert (COSINE[PAIRS & ~SAME] >= threshold).mean() == pytest.approx(far, abs=2e-4)
    assert tar_at_far(histogram, far) == pytest.approx(np.interp(far, *reference), abs=2e-3)


def test_equal_error_rate(histogram, reference):
    far, tar = reference
    assert equal_error_rate(histogram) == pytest.approx(np.interp(0.0, far - (1 - tar), far), abs=2e-4)


def test_class_rates(histogram):
    threshold = float(histogram.cosine(torch.tensor(11000.0)))  # an edge: exact
    rates = class_rates(histogram, threshold)
    accepted, other = threshold <= COSINE, ~np.eye(240, dtype=bool)
    for place, k in enumerate(rates.classes.tolist()):
        mine = (k == LABELS).numpy()
        inside = SAME & other & mine[:, None]
        across = mine[:, None] & ~mine[None]
        assert float(rates.frr[place]) == pytest.approx(1 - accepted[inside].mean(), abs=1e-12)
        assert float(rates.far[place]) == pytest.approx(accepted[across].mean(), abs=1e-12)


def test_a_perfect_and_a_useless_embedding():
    labels = torch.arange(40) // 4
    assert equal_error_rate(PairHistogram.of(torch.eye(10)[labels], labels)) == pytest.approx(0, abs=1e-9)
    noise = F.normalize(torch.randn(400, 16), dim=1)
    assert equal_error_rate(PairHistogram.of(noise, torch.arange(400) % 10)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("far", [0, 1, -0.1, 1.5])
def test_far_outside_its_range(histogram, far):
    for function in (threshold_at_far, tar_at_far):
        with pytest.raises(RectifyError, match=f"FAR is {far}"):
            function(histogram, far)


def test_threshold_outside_the_histogram():
    with pytest.raises(RectifyError, match=r"threshold is 0.9.*from 0.0 to 0.5"):
        class_rates(PairHistogram.of(ROWS, LABELS, low=0.0, high=0.5), 0.9)


def test_no_positive_pair():
    with pytest.raises(RectifyError, match="no positive pair"):
        roc(PairHistogram.of(ROWS, torch.arange(240)))
