"""One process and two give the same metrics, padded samples included."""

from pathlib import Path

import pytest
import torch
from processes import run_ranks

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    AreaUnderRiskCoverage,
    CalibrationSums,
    Deduplicator,
    KolmogorovSmirnovError,
    SmoothCalibrationError,
    TopLabelCalibrationError,
)


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(Path(__file__).with_name("ranks_metrics.py"))


def test_two_processes_with_padding_equal_one(ranks):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(101, 4, generator=generator) * 3
    label = torch.randint(4, (101,), generator=generator)
    metric = CalibrationSums(4)
    metric.update(logits, label)
    result = metric.compute()
    for found in ranks:
        assert found["scores"] == pytest.approx({k: float(v) for k, v in result.scores.items()}, rel=1e-6)
        assert found["count"] == result.reliability.count.tolist()
    assert sum(found["kept"] for found in ranks) == 101


def test_histograms_buffers_and_exact_modes_of_two_processes_equal_one(ranks):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(101, 4, generator=generator) * 3
    label = torch.randint(4, (101,), generator=generator)
    single = {
        "buffered": TopLabelCalibrationError(),
        "ks": KolmogorovSmirnovError(),
        "ks_exact": KolmogorovSmirnovError(exact=True),
        "smooth_exact": SmoothCalibrationError(exact=True),
        "aurc_exact": AreaUnderRiskCoverage(exact=True),
    }
    for metric in single.values():
        metric.update(logits, label)
    for found in ranks:
        assert found["single"] == pytest.approx({n: float(m.compute()) for n, m in single.items()}, rel=1e-6)
        # a rank without samples counts for nothing, and no samples at all are said
        assert found["lopsided"] == pytest.approx(float(single["aurc_exact"].compute()), rel=1e-6)
        assert found["unfed"].startswith("AreaUnderRiskCoverage: compute before any update")


def test_what_one_rank_saw_is_refused_by_all(ranks):
    for found in ranks:
        assert found["refused"].startswith("TopLabelCalibrationError: these are probabilities")


def test_class_gaussians_of_two_processes_equal_one(ranks):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(101, 4, generator=generator).double() * 3
    label = torch.randint(4, (101,), generator=generator)
    for found in ranks:
        for k in range(4):
            own = logits[label == k]
            torch.testing.assert_close(torch.tensor(found["mean"][k]).double(), own.mean(0), atol=1e-5, rtol=0)
            torch.testing.assert_close(torch.tensor(found["covariance"][k]).double(), own.T.cov(), atol=1e-4, rtol=0)


def test_the_lowest_rank_that_brings_a_sample_first_counts_it(ranks):
    assert ranks[0]["rules"] == [[True, True, False], [True, False]]
    assert ranks[1]["rules"] == [[False, True], [False, True]]


def test_one_process_keeps_first_occurrences_until_reset():
    once = Deduplicator()
    assert once.keep(torch.tensor([3, 1, 3, 2**40])).tolist() == [True, True, False, True]
    assert once.keep(torch.tensor([1, 4])).tolist() == [False, True]
    assert once.keep(torch.zeros(0, dtype=torch.int64)).tolist() == []
    once.reset()
    assert once.keep(torch.tensor([1, 4])).tolist() == [True, True]


@pytest.mark.parametrize("index", [torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2)])
def test_an_index_of_another_kind_is_refused(index):
    with pytest.raises(RectifyError, match="index must be int64"):
        Deduplicator().keep(index)
