"""Class Gaussians against NumPy and CCVR's merge formula; a head re-trained on them."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rectify.calibration import ClassGaussians, retrain_head
from lightning_rectify.errors import RectifyError

K, D = 3, 4


def data(n=600):
    label = torch.randint(K, (n,))
    return torch.randn(n, D) @ torch.randn(D, D) + 3 * torch.eye(K, D)[label], label


def test_moments_equal_numpy_over_batches():
    features, label = data()
    found = ClassGaussians(K, D)
    for piece, target in zip(features.split(70), label.split(70), strict=True):
        found.update(piece, target)
    for k in range(K):
        own = features[label == k].double().numpy()
        np.testing.assert_allclose(found.mean[k], own.mean(0), atol=1e-9)
        np.testing.assert_allclose(found.covariance[k], np.cov(own.T), atol=1e-8)


def test_merged_sums_equal_the_published_merge_of_means_and_covariances():
    (first, one), (second, two) = data(200), data(350)
    parts, whole = [ClassGaussians(K, D), ClassGaussians(K, D)], ClassGaussians(K, D)
    for part, (features, label) in zip(parts, ((first, one), (second, two)), strict=True):
        part.update(features, label)
        whole.update(features, label)
    for c in range(K):
        n = [float(part.count[c]) for part in parts]
        total = sum(n)
        mean = sum(m / total * part.mean[c] for m, part in zip(n, parts, strict=True))
        spread = sum(
            (m - 1) / (total - 1) * part.covariance[c] + m / (total - 1) * torch.outer(part.mean[c], part.mean[c])
            for m, part in zip(n, parts, strict=True)
        ) - total / (total - 1) * torch.outer(mean, mean)
        torch.testing.assert_close(whole.mean[c], mean)
        torch.testing.assert_close(whole.covariance[c], spread)


def test_samples_have_the_moments_and_singular_classes_work():
    features, label = data()
    found = ClassGaussians(K, D)
    found.update(features, label)
    drawn, name = found.sample(20_000, torch.Generator().manual_seed(0))
    for k in range(K):
        own = drawn[name == k]
        torch.testing.assert_close(own.mean(0), found.mean[k], atol=0.1, rtol=0)
        torch.testing.assert_close(own.T.cov(), found.covariance[k], atol=0.4, rtol=0.05)
    few = ClassGaussians(K, D)
    few.update(features[:1], torch.tensor([1]))
    drawn, name = few.sample(5, torch.Generator())
    assert name.unique().tolist() == [1]
    torch.testing.assert_close(drawn, features[:1].double().expand(5, D))


def test_a_spoilt_head_is_repaired_and_an_absent_class_stays():
    features, label = data(900)
    gaussians = ClassGaussians(K, D)
    kept = label != 2
    gaussians.update(features[kept], label[kept])
    head = nn.Linear(D, K)
    before = head.weight.detach().clone(), head.bias.detach().clone()
    retrain_head(head, gaussians)
    right = head(features[kept])[:, :2].argmax(1).eq(label[kept]).float().mean()
    assert right > 0.8 > head.weight.new_tensor(0.55)
    assert torch.equal(head.weight[2], before[0][2])
    assert torch.equal(head.bias[2], before[1][2])
    again = nn.Linear(D, K)
    again.load_state_dict({"weight": before[0], "bias": before[1]})
    assert torch.equal(retrain_head(again, gaussians).weight, head.weight)


def broken():
    features, label = data(20)
    features[3] = torch.nan
    found = ClassGaussians(K, D)
    found.update(features, label)
    return found


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ClassGaussians(1, 3), "classes 1"),
        (lambda: ClassGaussians(2, 3).update(torch.randn(4, 2), torch.zeros(4).long()), "features"),
        (lambda: retrain_head(nn.Linear(5, 2), ClassGaussians(2, 3)), "the head is"),
        (lambda: retrain_head(nn.Linear(3, 2), ClassGaussians(2, 3)), "no samples"),
        (lambda: ClassGaussians(2, 3).update(torch.randn(4, 3), torch.arange(4)), "labels reach from 0 to 3"),
        (lambda: retrain_head(nn.Linear(D, K), broken()), "some features were NaN"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call()
