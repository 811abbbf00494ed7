"""Smooth-AP against its definition in a loop, the library where the library is right, and true average precision."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SmoothAPLoss
from sklearn.metrics import average_precision_score

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import SmoothAP


def loop(cosine, labels, temperature, include_query):
    lost, queries = 0.0, 0
    for q in range(len(labels)):
        others = [j for j in range(len(labels)) if include_query or j != q]
        positives = [j for j in others if labels[j] == labels[q]]
        if not positives:
            continue
        queries += 1
        precision = 0.0
        for i in positives:
            ahead = {j: torch.sigmoid((cosine[q, j] - cosine[q, i]) / temperature) for j in others if j != i}
            precision += (1 + sum(ahead[j] for j in positives if j != i)) / (1 + sum(ahead.values()))
        lost += 1 - precision / len(positives)
    return lost / queries


@pytest.mark.parametrize("include_query", [False, True])
def test_equals_its_definition(include_query):
    raw = torch.randn(14, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 4])  # uneven, and 3 is alone
    unit = F.normalize(raw, dim=1)
    value = SmoothAP(0.05, include_query)(unit, labels)
    wanted = loop(unit @ unit.T, labels, 0.05, include_query)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, raw, retain_graph=True)[0] for loss in (value, wanted)), rtol=1e-9, atol=1e-12
    )


def test_equals_the_library_where_images_per_class_are_as_many_as_classes():
    """2.9 takes the number of images per class for that of classes, so only a square batch comes out right there."""
    unit = F.normalize(torch.randn(25, 6), dim=1)
    square, oblong = torch.arange(25) // 5, torch.arange(24) // 3
    theirs, ours = SmoothAPLoss(temperature=0.1), SmoothAP(0.1, include_query=True)
    torch.testing.assert_close(ours(unit, square), theirs(unit, square), rtol=1e-5, atol=0)
    assert abs(float(ours(unit[:24], oblong) - theirs(unit[:24], oblong))) > 1e-3


def test_tends_to_average_precision():
    unit = F.normalize(torch.randn(30, 4, dtype=torch.float64), dim=1)
    labels = torch.arange(30) % 6
    cosine = unit @ unit.T
    precisions = []
    for q in range(30):
        others = torch.arange(30) != q
        precisions.append(average_precision_score(labels[others] == labels[q], cosine[q, others]))
    assert float(SmoothAP(1e-6)(unit, labels)) == pytest.approx(1 - sum(precisions) / 30, abs=1e-6)


def test_bad_input():
    with pytest.raises(RectifyError, match="temperature is 0"):
        SmoothAP(0)
    with pytest.raises(RectifyError, match="length 2"):
        SmoothAP()(2 * torch.eye(3), torch.zeros(3).long())
