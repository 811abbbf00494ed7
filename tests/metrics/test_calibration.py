"""Calibration metrics against torchmetrics, scikit-learn, float64 loops and hand cases."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassCalibrationError

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    BrierScore,
    CalibrationSums,
    ClassWiseCalibrationError,
    NegativeLogLikelihood,
    ReliabilityDiagram,
    SignedCalibrationGap,
    TopLabelCalibrationError,
)

N, K = 700, 6


@pytest.fixture
def data():
    logits = torch.randn(N, K) * 2
    label = torch.where(torch.rand(N) < 0.6, logits.argmax(1), torch.randint(K, (N,)))
    return logits, label


def in_batches(metric, logits, label, size=64):
    for piece, target in zip(logits.split(size), label.split(size), strict=True):
        metric.update(piece, target)
    return metric.compute()


def loop_gaps(probability, outcome, bins):
    """Per bin (n, Σp, Σy) by a plain double loop over half-open bins, the last one closed."""
    table = np.zeros((bins, 3))
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    for p, y in zip(probability, outcome, strict=True):
        where = next((b for b in range(bins) if edges[b] <= p < edges[b + 1]), bins - 1)
        table[where] += 1, p, y
    return table


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [2, 10, 15])
def test_top_label_error_equals_torchmetrics_below_confidence_one(data, norm, bins):
    logits, label = data
    expected = MulticlassCalibrationError(K, bins, norm)(logits.softmax(1), label).item()
    assert in_batches(TopLabelCalibrationError(bins, norm), logits, label) == pytest.approx(expected, abs=1e-6)


def test_confidence_of_exactly_one_belongs_to_the_last_bin():
    # one sample at confidence 1, wrong; one at 0.97, right: both in [14/15, 1], so |1/2 - 1.97/2| = 0.485
    logits = torch.tensor([[200.0, 0.0], [np.log(0.97 / 0.03), 0.0]])
    label = torch.tensor([1, 0])
    assert logits.softmax(1).max() == 1
    for norm in ("l1", "l2", "max"):
        assert in_batches(TopLabelCalibrationError(norm=norm), logits, label) == pytest.approx(0.485, abs=1e-6)
    phantom = MulticlassCalibrationError(2, 15)(logits.softmax(1), label)
    assert phantom == pytest.approx(0.515, abs=1e-6)  # what torchmetrics says, if this changes drop the docs' remark
    counts = in_batches(ReliabilityDiagram(), logits, label).count
    assert counts.tolist() == [0] * 14 + [2]


def test_class_wise_error_equals_a_loop(data):
    logits, label = data
    probability = logits.softmax(1)
    expected = 0.0
    for k in range(K):
        table = loop_gaps(probability[:, k].numpy(), label.eq(k).numpy(), 15)
        expected += np.abs(table[:, 1] - table[:, 2]).sum() / N / K
    assert in_batches(ClassWiseCalibrationError(K), logits, label) == pytest.approx(expected, abs=1e-6)


def test_class_wise_error_by_hand():
    # two bins of width 1/2. class 0: p = .9, .8 in the upper bin, y = 1, 0 -> gap 0.7; class 1: p = .1, .2, y = 0, 1
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log()
    error = in_batches(ClassWiseCalibrationError(2, bins=2), logits, torch.tensor([0, 1]))
    assert error == pytest.approx((0.7 / 2 + 0.7 / 2) / 2, abs=1e-6)


def test_proper_scores_equal_scikit_learn(data):
    logits, label = data
    probability = logits.double().softmax(1).numpy()
    nll = in_batches(NegativeLogLikelihood(), logits, label)
    brier = in_batches(BrierScore(), logits, label)
    assert nll == pytest.approx(log_loss(label.numpy(), probability, labels=range(K)), rel=1e-6)
    expected = brier_score_loss(label.numpy(), probability, labels=list(range(K)), scale_by_half=False)
    assert brier == pytest.approx(expected, rel=1e-6)


def test_brier_spans_zero_to_two_and_nll_stays_finite_at_saturation():
    sure = torch.tensor([[300.0, 0.0, 0.0]])
    assert in_batches(BrierScore(), sure, torch.tensor([0])) == 0
    assert in_batches(BrierScore(), sure, torch.tensor([1])) == 2
    assert in_batches(NegativeLogLikelihood(), sure, torch.tensor([1])) == 300


def test_signed_gap_is_confidence_minus_accuracy(data):
    logits, label = data
    confidence, prediction = logits.double().softmax(1).max(1)
    expected = confidence.mean() - prediction.eq(label).double().mean()
    assert in_batches(SignedCalibrationGap(), logits, label) == pytest.approx(expected.item(), abs=1e-6)
    assert in_batches(SignedCalibrationGap(), logits * 50, label) > 0.2  # over-confident
    assert in_batches(SignedCalibrationGap(), logits / 50, label) < -0.2  # under-confident


def test_reliability_holds_means_per_bin_and_nan_where_nothing_fell(data):
    logits, label = data
    confidence, prediction = logits.softmax(1).max(1)
    table = loop_gaps(confidence.numpy(), prediction.eq(label).numpy(), 15)
    found = in_batches(ReliabilityDiagram(), logits, label)
    assert found.count.tolist() == table[:, 0].tolist()
    assert found.samples == N
    filled = table[:, 0] > 0
    assert not filled.all()
    assert found.accuracy.isnan().tolist() == (~filled).tolist()
    np.testing.assert_allclose(found.accuracy[filled], table[filled, 2] / table[filled, 0], rtol=1e-12)
    np.testing.assert_allclose(found.mean_confidence[filled], table[filled, 1] / table[filled, 0], rtol=1e-6)


def test_one_pass_gives_what_the_single_metrics_give(data):
    logits, label = data
    result = in_batches(CalibrationSums(K), logits, label)
    single = {
        "ece_top_label_l1": TopLabelCalibrationError(),
        "ece_class_wise_l1": ClassWiseCalibrationError(K),
        "signed_gap": SignedCalibrationGap(),
        "nll": NegativeLogLikelihood(),
        "brier": BrierScore(),
    }
    expected = {name: in_batches(metric, logits, label) for name, metric in single.items()}
    assert {name: result.scores[name] for name in single} == expected
    assert torch.equal(result.reliability.hits, in_batches(ReliabilityDiagram(), logits, label).hits)


def test_a_collection_shares_one_binned_state(data):
    group = MetricCollection({"ece": TopLabelCalibrationError(), "gap": SignedCalibrationGap()})
    in_batches(group, *data)
    assert list(group.compute_groups.values()) == [["ece", "gap"]]
    assert group["gap"].compute() == in_batches(SignedCalibrationGap(), *data)


def test_merging_states_in_any_order_equals_one_pass(data):
    logits, label = data
    whole = in_batches(CalibrationSums(K), logits, label).scores
    parts = [CalibrationSums(K) for _ in range(3)]
    for part, where in zip(parts, (slice(0, 100), slice(100, 650), slice(650, N)), strict=True):
        part.update(logits[where], label[where])
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = CalibrationSums(K)
        merged.update(logits[:0], label[:0])
        for place in order:
            merged.merge_state(parts[place])
        for name, value in merged.compute().scores.items():
            assert value.item() == pytest.approx(whole[name].item(), rel=1e-6)


def test_sums_do_not_drift_over_many_small_terms():
    # 2 million samples at confidence 0.1 + 1e-4: a float32 running sum would be off in the third digit
    logits = torch.log(torch.tensor([[0.9999, 0.0001]])).expand(100_000, 2)
    metric = NegativeLogLikelihood()
    for _ in range(20):
        metric.update(logits, torch.zeros(100_000, dtype=torch.int64))
    assert metric.compute() == pytest.approx(-np.log(0.9999), rel=1e-3)
    assert metric.total.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_raised_before_the_softmax(data, dtype):
    logits, label = data
    rounded = logits.to(dtype)
    for metric in (TopLabelCalibrationError, NegativeLogLikelihood, BrierScore):
        assert in_batches(metric(), rounded, label) == in_batches(metric(), rounded.float(), label)


def test_an_empty_batch_changes_nothing_and_no_sample_is_nan(data):
    logits, label = data
    metric = CalibrationSums(K)
    metric.update(logits[:0], label[:0])
    scores = metric.compute().scores
    assert scores.pop("calibration_samples") == 0
    assert scores.pop("calibration_bins") == 15
    assert all(value.isnan() for value in scores.values())
    metric.update(logits, label)
    metric.update(logits[:0], label[:0])
    assert metric.compute().scores == in_batches(CalibrationSums(K), logits, label, N).scores


def test_casting_a_module_leaves_the_sums_in_float64():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.metric = CalibrationSums(K)

    for cast in (Holder().half(), Holder().to(torch.bfloat16), Holder().to("cpu", torch.float16)):
        assert cast.metric.gaps.dtype == torch.float64
        assert cast.metric.count.dtype == torch.int64


def later_label(metric):
    metric.update(torch.randn(40, K), torch.zeros(40).long())
    metric.update(torch.randn(2, K), torch.tensor([0, -100]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TopLabelCalibrationError(bins=1), "bins is 1"),
        (lambda: TopLabelCalibrationError(norm="l3"), "norm is 'l3'"),
        (lambda: BrierScore().update(torch.randn(4, 2, 2), torch.zeros(4, dtype=torch.int64)), "logits"),
        (lambda: BrierScore().update(torch.ones(4, 2, dtype=torch.int64), torch.zeros(4).long()), "float logits"),
        (lambda: BrierScore().update(torch.randn(4, 2), torch.zeros(3, dtype=torch.int64)), "labels of shape"),
        (lambda: BrierScore().update(torch.randn(4, 2), torch.zeros(4)), "integer labels"),
        (
            lambda: NegativeLogLikelihood().update(torch.randn(4, 2), torch.tensor([0, 1, -100, 1])),
            "reach from -100 to 1",
        ),
        (lambda: TopLabelCalibrationError().update(torch.randn(4, 2), torch.arange(4)), "labels reach from 0 to 3"),
        (
            lambda: CalibrationSums(K).update(torch.randn(4, 2), torch.zeros(4).long()),
            "made for 6 classes, got logits of 2",
        ),
        (lambda: later_label(CalibrationSums(K)), "reach from -100 to 0"),
        (lambda: later_label(BrierScore()), "reach from -100 to 0"),
        (lambda: ClassWiseCalibrationError(1), "ClassWiseCalibrationError: classes is 1"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call()
