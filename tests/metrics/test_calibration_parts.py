"""Debiased errors, both sides of confidence, Brier's parts, bootstrap and buffered binning against loops."""

import copy

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    AreaUnderRiskCoverage,
    BrierDecomposition,
    BrierScore,
    BufferedCalibrationError,
    CalibrationSums,
    ClassWiseCalibrationError,
    EqualMassCalibrationError,
    ExcessRiskCoverage,
    KolmogorovSmirnovError,
    NegativeLogLikelihood,
    OverConfidence,
    Reliability,
    ReliabilityDiagram,
    SignedCalibrationGap,
    SmoothCalibrationError,
    TopLabelCalibrationError,
    UnderConfidence,
    bootstrap_interval,
    bootstrap_replicates,
)

N, K, B = 800, 4, 15


@pytest.fixture
def data():
    logits = torch.randn(N, K) * 2
    return logits, torch.where(torch.rand(N) < 0.6, logits.argmax(1), torch.randint(K, (N,)))


def fed(metric, logits, label, size=64):
    for piece, target in zip(logits.split(size), label.split(size), strict=True):
        metric.update(piece, target)
    return metric.compute()


def bins_of(logits, label):
    """(confidence, hit) arrays of each non-empty bin."""
    confidence, prediction = logits.softmax(1).max(1)
    edges = np.linspace(0, 1, B + 1, dtype=np.float32)
    where = np.clip(np.searchsorted(edges, confidence.numpy(), side="right") - 1, 0, B - 1)
    c, a = confidence.double().numpy(), prediction.eq(label).double().numpy()
    return [(c[where == b], a[where == b]) for b in range(B) if (where == b).any()]


def test_debiased_l2_equals_a_loop(data):
    total = 0.0
    for c, a in bins_of(*data):
        if len(a) > 1:
            total += len(a) / N * ((a.mean() - c.mean()) ** 2 - a.var(ddof=1) / len(a))
    found = fed(TopLabelCalibrationError(norm="l2", debiased=True), *data)
    assert found == pytest.approx(np.sqrt(total), abs=1e-6)


def test_debiased_l1_equals_resampling(data):
    rng = np.random.default_rng(0)
    plain = drawn = 0.0
    for c, a in bins_of(*data):
        plain += len(a) / N * abs(a.mean() - c.mean())
        noise = rng.normal(a.mean(), np.sqrt(a.mean() * (1 - a.mean()) / len(a)), 200_000)
        drawn += len(a) / N * np.abs(noise - c.mean()).mean()
    found = fed(TopLabelCalibrationError(debiased=True), *data)
    assert found == pytest.approx(2 * plain - drawn, abs=2e-4)


def test_debiasing_takes_the_noise_off_a_calibrated_forecast():
    logits = torch.randn(40, 300, K) * 1.5
    label = torch.distributions.Categorical(logits=logits).sample()
    runs = [(torch.stack([fed(make(), *run) for run in zip(logits, label, strict=True)])) for make in (
        TopLabelCalibrationError, lambda: TopLabelCalibrationError(debiased=True))]  # fmt: skip
    assert runs[0].mean() > 0.05
    assert runs[1].mean().abs() < 0.75 * runs[0].mean()  # the estimate takes off a part, it is no cure


def test_over_and_under_confidence_make_up_ece_and_gap(data):
    for logits in (data[0], data[0] * 9, data[0] / 9):
        over, under = fed(OverConfidence(), logits, data[1]), fed(UnderConfidence(), logits, data[1])
        assert over + under == pytest.approx(fed(TopLabelCalibrationError(), logits, data[1]).item(), abs=1e-6)
        assert over - under == pytest.approx(fed(SignedCalibrationGap(), logits, data[1]).item(), abs=1e-6)
    weighted = sum(len(a) / N * c.mean() * max(c.mean() - a.mean(), 0) for c, a in bins_of(*data))
    assert fed(OverConfidence(weighted=True), *data) == pytest.approx(weighted, abs=1e-6)


def test_brier_parts_equal_a_loop_and_add_up(data):
    logits, label = data
    probability, parts = logits.softmax(1).double().numpy(), np.zeros(3)
    edges = np.linspace(0, 1, B + 1, dtype=np.float32)
    for k in range(K):
        p, y = probability[:, k], label.eq(k).double().numpy()
        where = np.clip(np.searchsorted(edges, p.astype(np.float32), side="right") - 1, 0, B - 1)
        for b in np.unique(where):
            share, own = (where == b).mean(), where == b
            parts += share * (p[own].mean() - y[own].mean()) ** 2, share * (y[own].mean() - y.mean()) ** 2, 0
        parts[2] += y.mean() * (1 - y.mean())
    found = fed(BrierDecomposition(K), logits, label)
    assert [found.reliability, found.resolution, found.uncertainty] == pytest.approx(list(parts), abs=1e-6)
    assert found.brier == pytest.approx(fed(BrierScore(), logits, label).item(), abs=1e-6)
    assert found.reliability - found.resolution + found.uncertainty + found.within == pytest.approx(found.brier.item())
    assert abs(found.within) < 2 * K / B**2  # what is left is the spread inside a bin


def test_bootstrap_interval_equals_resampling_the_samples(data):
    logits, label = data
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(400):
        pick = torch.randint(N, (N,), generator=generator)
        values.append(fed(TopLabelCalibrationError(), logits[pick], label[pick], N).item())
    expected = np.quantile(values, [0.025, 0.975])
    found = bootstrap_interval(fed(ReliabilityDiagram(), logits, label), replicates=4000)
    np.testing.assert_allclose(found, expected, atol=0.15 * (expected[1] - expected[0]))
    again = bootstrap_interval(fed(ReliabilityDiagram(), logits, label), replicates=4000)
    assert torch.equal(found, again)  # every rank draws the same


@pytest.mark.parametrize("options", [{"level": 1.0}, {"replicates": 1}])
def test_bad_bootstrap_is_one_sentence(data, options):
    with pytest.raises(RectifyError, match=next(iter(options))):
        bootstrap_interval(fed(ReliabilityDiagram(), *data), **options)


def test_buffered_binning_is_the_same_metric(data):
    logits, label = data
    for norm in ("l1", "l2", "max"):
        plain = fed(TopLabelCalibrationError(norm=norm), logits, label)
        assert fed(BufferedCalibrationError(norm=norm, buffer=200), logits, label) == plain
        assert fed(BufferedCalibrationError(norm=norm, buffer=10**6), logits, label) == plain
    metric = BufferedCalibrationError(buffer=10**6)
    fed(metric, logits, label)
    assert sum(getattr(metric, name).numel() for name in metric._defaults) <= 64


def test_what_waits_is_not_lost_on_any_way_out(data):
    logits, label = data
    plain = fed(TopLabelCalibrationError(), logits, label)

    def half(first=True):
        metric = BufferedCalibrationError(buffer=10**6)
        for piece in ((0, 100), (100, 400)) if first else ((400, 500), (500, N)):
            metric.update(logits[slice(*piece)], label[slice(*piece)])
        return metric

    merged = half()
    merged.merge_state(half(first=False))
    copied = copy.deepcopy(half())
    copied.update(logits[400:], label[400:])
    stepped = BufferedCalibrationError(buffer=10**6)
    for piece, target in zip(logits.split(64), label.split(64), strict=True):
        stepped(piece, target)
    for metric in (merged, copied, stepped):
        assert metric.compute() == pytest.approx(plain.item(), abs=1e-7)
    metric = half()
    metric.reset()
    assert fed(metric, logits, label) == plain
    group = MetricCollection({"a": BufferedCalibrationError(), "b": BufferedCalibrationError(norm="max")})
    found = fed(group, logits, label)
    assert found == {"a": plain, "b": fed(TopLabelCalibrationError(norm="max"), logits, label)}


def test_ties_go_to_the_first_class_as_in_argmax():
    logits = torch.zeros(6, 3)
    gap = fed(SignedCalibrationGap(), logits, torch.tensor([0, 0, 1, 2, 2, 2]))
    assert gap == pytest.approx(0, abs=1e-6)  # 1/3 - 2/6


@pytest.mark.parametrize(
    "metric",
    [
        lambda: CalibrationSums(K),
        ReliabilityDiagram,
        TopLabelCalibrationError,
        BufferedCalibrationError,
        SignedCalibrationGap,
        OverConfidence,
        BrierScore,
        NegativeLogLikelihood,
        AreaUnderRiskCoverage,
        lambda: AreaUnderRiskCoverage(exact=True),
        ExcessRiskCoverage,
        KolmogorovSmirnovError,
        SmoothCalibrationError,
        EqualMassCalibrationError,
        lambda: ClassWiseCalibrationError(K),
        lambda: BrierDecomposition(K),
    ],
)
def test_nan_logits_are_named(data, metric):
    logits = data[0].clone()
    logits[5, 1] = torch.nan
    own = metric()
    with pytest.raises(RectifyError, match=f"{type(own).__name__}: some logits are NaN"):
        fed(own, logits, data[1])


PROBABILITY_METRICS = [
    lambda: CalibrationSums(K),
    TopLabelCalibrationError,
    lambda: BufferedCalibrationError(buffer=300),
    BrierScore,
    KolmogorovSmirnovError,
    lambda: SmoothCalibrationError(exact=True),
    lambda: ClassWiseCalibrationError(K),
    lambda: BrierDecomposition(K),
]


@pytest.mark.parametrize("metric", PROBABILITY_METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_in_the_place_of_logits_are_refused(data, metric, dtype):
    probability, label = data[0].softmax(1).to(dtype), data[1]
    own = metric()
    with pytest.raises(RectifyError, match=f"{type(own).__name__}: these are probabilities"):
        fed(own, probability, label)
    own.reset()
    fed(own, probability.log(), label)  # the logarithm of probabilities is as good as the logits
    own.reset()
    for row, one in zip(data[0][:40].split(1), label.split(1), strict=False):  # one that sums to 1 by chance is none
        own.update(row, one)
    own.update(torch.full((1, K), 1 / K), label[:1])
    own.compute()


def test_few_samples_have_an_interval(data):
    for n in (1, 3, 8):
        low, high = bootstrap_interval(fed(ReliabilityDiagram(), data[0][:n], data[1][:n]))
        assert 0 <= low <= high <= 1


def test_the_interval_stays_in_the_precision_of_the_sums(data):
    """Apple's GPUs have no float64, and the sums there are float32."""
    sums = fed(ReliabilityDiagram(), *data)
    single = Reliability(sums.count, sums.hits, sums.confidence.float())
    assert bootstrap_replicates(single).count.dtype == torch.float32
    found = bootstrap_interval(single)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), bootstrap_interval(sums), atol=1e-5, rtol=0)


def test_bad_options_are_one_sentence():
    with pytest.raises(RectifyError, match="no debiased form"):
        TopLabelCalibrationError(norm="max", debiased=True)
    with pytest.raises(RectifyError, match="no debiased form"):
        fed(ReliabilityDiagram(), torch.randn(9, 3), torch.zeros(9).long()).calibration_error("max", debiased=True)
    with pytest.raises(RectifyError, match="buffer is 0"):
        BufferedCalibrationError(buffer=0)
