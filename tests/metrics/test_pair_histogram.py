"""Pair counts against every pair by brute force; shares add up in any order; what is above a threshold."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import PairHistogram, pair_counts

ROWS = F.normalize(torch.randn(203, 7, generator=torch.Generator().manual_seed(0)), dim=1)
LABELS = torch.randint(30, (203,), generator=torch.Generator().manual_seed(1)) * 11 - 40
LABELS[5] = 999  # alone in its class


def brute_force(bins, low=-1.0, high=1.0):
    cosine = (ROWS.double() @ ROWS.double().T).numpy()
    labels = LABELS.numpy()
    edges = np.linspace(low, high, bins + 1)[1:-1]
    positive, negative = [], []
    for k in np.unique(labels):
        mine = np.flatnonzero(labels == k)
        inside = cosine[np.ix_(mine, mine)][~np.eye(len(mine), dtype=bool)]
        across = cosine[mine][:, labels != k].ravel()
        positive.append(np.bincount(np.searchsorted(edges, inside, side="right"), minlength=bins))
        negative.append(np.bincount(np.searchsorted(edges, across, side="right"), minlength=bins))
    return np.stack(positive), np.stack(negative)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.1, 0.35)])
@pytest.mark.parametrize("block", [4096, 50])
def test_counts_every_pair_of_every_class(monkeypatch, block, low, high):
    monkeypatch.setattr(pair_counts, "BLOCK", block)
    monkeypatch.setattr(pair_counts, "SLICE", {"cpu": 300})
    histogram = PairHistogram.of(ROWS, LABELS, 64, low, high)
    positive, negative = brute_force(64, low, high)
    assert histogram.classes.tolist() == sorted(set(LABELS.tolist()))
    np.testing.assert_array_equal(histogram.positive, positive)
    np.testing.assert_array_equal(histogram.negative, negative)
    sizes = torch.stack([(k == LABELS).sum() for k in histogram.classes])
    assert torch.equal(histogram.positives, sizes * (sizes - 1) // 2)
    assert torch.equal(histogram.negative.sum(1), sizes * (203 - sizes))
    assert histogram.singletons == int((sizes == 1).sum()) > 0


def test_shares_add_up_in_any_order(monkeypatch):
    monkeypatch.setattr(pair_counts, "BLOCK", 40)
    whole = PairHistogram.of(ROWS, LABELS)
    shares = [PairHistogram.of(ROWS, LABELS, shard=(k, 5)) for k in range(5)]
    assert all(0 < share.negative.sum() < whole.negative.sum() for share in shares)
    for seed in range(3):
        random.Random(seed).shuffle(shares)
        merged = shares[0]
        for share in shares[1:]:
            merged = merged.merge(share)
        assert torch.equal(merged.positive, whole.positive) and torch.equal(merged.negative, whole.negative)


def test_accepted_pairs_are_exact_at_edges_and_linear_between():
    histogram = PairHistogram.of(ROWS, LABELS, bins=32)
    table = histogram.negative
    at = histogram.accepted(table, torch.tensor([0.0, 5.0, 31.0, 32.0, 5.25], dtype=torch.float64))
    assert torch.equal(at[:, 0], table.sum(1).double())
    assert torch.equal(at[:, 1], table[:, 5:].sum(1).double())
    assert torch.equal(at[:, 2], table[:, 31].double())
    assert torch.equal(at[:, 3], torch.zeros(len(table), dtype=torch.float64))
    torch.testing.assert_close(at[:, 4], table[:, 5:].sum(1) - 0.25 * table[:, 5].double())
    assert float(histogram.cosine(histogram.position(0.3))) == pytest.approx(0.3)


def test_low_precision_of_products_is_not_used_and_comes_back():
    torch.set_float32_matmul_precision("medium")
    try:
        loose = PairHistogram.of(ROWS, LABELS)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(loose.negative, PairHistogram.of(ROWS, LABELS).negative)


def test_bad_input():
    whole = PairHistogram.of(ROWS, LABELS)
    with pytest.raises(RectifyError, match="merge"):
        whole.merge(PairHistogram.of(ROWS, LABELS, bins=64))
    with pytest.raises(RectifyError, match="1 bins"):
        PairHistogram.of(ROWS, LABELS, bins=1)
    with pytest.raises(RectifyError, match=r"on \[0.5, 0.2\]"):
        PairHistogram.of(ROWS, LABELS, low=0.5, high=0.2)
