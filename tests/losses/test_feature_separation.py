"""The supervised contrastive term against a loop over pairs and against a kept library."""

import math

import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import FeatureSeparation


def by_hand(features, label, temperature):
    unit = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in features.tolist()]
    similar = [[sum(a * b for a, b in zip(x, y, strict=True)) / temperature for y in unit] for x in unit]
    anchors = []
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        positives = [p for p in others if label[p] == label[i]]
        if positives:
            log_sum = math.log(sum(math.exp(similar[i][a]) for a in others))
            anchors.append(-sum(similar[i][p] - log_sum for p in positives) / len(positives))
    return sum(anchors) / len(anchors) if anchors else 0.0


@pytest.mark.parametrize("label", [[0, 0, 1, 1, 1, 2, 2, 0], [0, 0, 1, 1, 1, 3, 2, 0], [0, 1, 2, 3, 4, 5, 6, 6]])
def test_equals_the_loop_also_with_classes_of_one(label):
    features = torch.randn(8, 6, dtype=torch.float64)
    ours = FeatureSeparation(temperature=0.3)(features, torch.tensor(label))
    assert abs(float(ours) - by_hand(features, label, 0.3)) < 1e-6


def test_equals_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    features, label = torch.randn(32, 8), torch.arange(32) % 5
    expected = losses.SupConLoss(temperature=0.07)(features, label)
    torch.testing.assert_close(FeatureSeparation()(features, label), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("label", [[0], [0, 1], [4, 2, 1]])
def test_a_batch_without_positives_gives_zero_and_no_nan(label):
    features = torch.randn(len(label), 3, requires_grad=True)
    loss = FeatureSeparation()(features, torch.tensor(label))
    loss.backward()
    assert loss.item() == 0 and bool((features.grad == 0).all())


def test_gradient():
    features, label = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 3])
    assert torch.autograd.gradcheck(lambda f: FeatureSeparation(temperature=0.5)(f, label), features)


def test_bad_arguments():
    with pytest.raises(RectifyError, match="weight is 0"):
        FeatureSeparation(0)
    with pytest.raises(RectifyError, match="temperature is 0"):
        FeatureSeparation(temperature=0)
