"""The Recall@k surrogate against its definition in a loop, and against the share of positives in the first k."""

import pytest
import torch
import torch.nn.functional as F

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import RecallAtK


def test_equals_its_definition():
    raw = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 4])
    unit = F.normalize(raw, dim=1)
    cosine = unit @ unit.T
    lost, queries = 0.0, 0
    for q in range(12):
        others = [j for j in range(12) if j != q]
        positives = [j for j in others if labels[j] == labels[q]]
        if not positives:
            continue
        queries += 1
        for k in (1, 3):
            recall = 0.0
            for i in positives:
                rank = 1 + sum(torch.sigmoid((cosine[q, j] - cosine[q, i]) / 0.05) for j in others if j != i)
                recall += torch.sigmoid((k - rank) / 0.5)
            lost += (1 - recall / min(k, len(positives))) / 2
    value, wanted = RecallAtK((1, 3), 0.5, 0.05)(unit, labels), lost / queries
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, raw, retain_graph=True)[0] for loss in (value, wanted)), rtol=1e-9, atol=1e-12
    )


def test_tends_to_the_share_of_positives_in_the_first_k():
    unit = F.normalize(torch.randn(24, 4, dtype=torch.float64), dim=1)
    labels = torch.arange(24) % 6
    nearest = (unit @ unit.T).fill_diagonal_(-2).argsort(1, descending=True)
    for k in (2, 8):
        share = (labels[nearest[:, :k]] == labels[:, None]).sum(1) / min(k, 3)
        # halfway between the ranks k and k + 1 there is no doubt: shift by a whole sharp step
        smooth = RecallAtK((k,), rank_temperature=1e-3, temperature=1e-7)(unit, labels)
        exact = 1 - share.double().mean()
        at_k = (labels[nearest[:, k - 1]] == labels).double().mean() / min(k, 3)  # σ(0) = 1/2 at rank k itself
        assert float(smooth) == pytest.approx(float(exact + at_k / 2), abs=1e-6)


def test_bad_input():
    with pytest.raises(RectifyError, match="ks is"):
        RecallAtK(())
    with pytest.raises(RectifyError, match="temperatures are"):
        RecallAtK(temperature=0)
