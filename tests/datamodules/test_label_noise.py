"""Label noise counted by hand; the two Gaussians against their posterior."""

import numpy as np
import pytest
import torch

from lightning_rectify.datamodules import LabelNoise, ShardDataModule, bayes_error, true_logits, two_gaussians
from lightning_rectify.datamodules.manifest import Index
from lightning_rectify.errors import RectifyError

LABEL = np.arange(400) % 4
IDS = {"train": np.arange(200), "val": np.arange(200, 300), "test": np.arange(300, 400)}


def index():
    none = np.zeros(0, np.int64)
    return Index(LABEL.astype(str), LABEL.copy(), none, none, none, IDS["train"], IDS["val"], IDS["test"])


def changed(noise):
    own = index()
    found = noise.apply(own, IDS, 4).label
    assert np.array_equal(own.label, LABEL)
    return found


def test_exactly_the_asked_share_of_each_class_changes_in_the_asked_splits():
    found = changed(LabelNoise([0.0, 0.1, 0.5, 0.29], splits=("train", "test")))
    for split, count in (("train", [0, 5, 25, 14]), ("val", [0] * 4), ("test", [0, 2, 12, 7])):
        ids = IDS[split]
        assert [int((found[ids] != k)[LABEL[ids] == k].sum()) for k in range(4)] == count


def test_fixed_noise_sends_a_class_to_one_other_and_uniform_to_all():
    found = changed(LabelNoise(0.5))
    targets = [set(found[:200][(LABEL[:200] == k) & (found[:200] != k)]) for k in range(4)]
    assert all(len(own) == 1 for own in targets)
    assert set().union(*targets) == {0, 1, 2, 3}  # a cycle: each class is one other's target
    found = changed(LabelNoise(0.6, to="uniform"))
    counts = np.bincount(found[:200][(LABEL[:200] == 1) & (found[:200] != 1)], minlength=4)
    assert counts.tolist() == [10, 0, 10, 10]


def test_few_uniform_changes_do_not_favour_the_low_numbers():
    label = np.arange(3000) % 30
    none = np.zeros(0, np.int64)
    own = Index(label.astype(str), label, none, none, none, np.arange(3000), none, none)
    ids = {"train": np.arange(3000), "val": none, "test": none}
    found = LabelNoise(0.05, to="uniform").apply(own, ids, 30).label
    moved = found != label
    assert moved.sum() == 150  # 5 of each class, for 29 others
    assert all(len(set(found[moved & (label == k)])) == 5 for k in range(30))
    received = np.bincount(found[moved], minlength=30)
    assert received.max() <= 15  # the lowest numbers would get 29 each
    assert abs(found[moved].mean() - 14.5) < 3  # four standard errors of 150 draws are 2.8


def test_where_splits_share_no_class_noise_stays_among_the_classes_of_the_split():
    label = np.concatenate((np.arange(120) % 3, 3 + np.arange(80) % 2))
    none = np.zeros(0, np.int64)
    ids = {"train": np.arange(120), "val": none, "test": np.arange(120, 200)}
    own = Index(label.astype(str), label, none, none, none, ids["train"], none, ids["test"])
    for to in ("fixed", "uniform"):
        found = LabelNoise(0.3, to=to, splits=("train", "val", "test")).apply(own, ids, 5).label
        assert set(found[:120]) == {0, 1, 2} and set(found[120:]) == {3, 4}
        assert [int((found != label)[label == k].sum()) for k in range(5)] == [12] * 5


def test_the_choice_is_the_seeds_and_a_larger_rate_keeps_the_smaller_ones():
    small, large = (changed(LabelNoise(rate, seed=1)) for rate in (0.2, 0.4))
    assert np.array_equal(small, changed(LabelNoise(0.2, seed=1)))
    assert not np.array_equal(small, changed(LabelNoise(0.2, seed=2)))
    assert set(np.flatnonzero(small != LABEL)) < set(np.flatnonzero(large != LABEL))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LabelNoise(1.0), "rate is 1.0"),
        (lambda: LabelNoise([]), "rate is"),
        (lambda: LabelNoise(0.1, to="next"), "to is 'next'"),
        (lambda: LabelNoise(0.1, splits=("calibration",)), "splits is"),
        (lambda: changed(LabelNoise([0.1, 0.2])), "2 rates for 4 classes"),
        (lambda: LabelNoise(0.1).other(1), "one class"),
        (lambda: two_gaussians(1, 0.1), "samples 1"),
    ],
)
def test_bad_options_are_one_sentence(make, words):
    with pytest.raises(RectifyError, match=words):
        make()


def test_two_gaussians_have_the_error_and_the_posterior_they_claim():
    image, label = two_gaussians(20_000, 0.1)
    assert image.shape == (20_000, 3, 10, 10)
    logits = true_logits(image, 0.1)
    error = logits.argmax(1).ne(label).float().mean()
    assert error == pytest.approx(bayes_error(0.1, 300), abs=0.01)
    normal = torch.distributions.Normal
    expected = [normal(mean, 1).log_prob(image[:50].double()).flatten(1).sum(1) for mean in (0.0, 0.1)]
    found = logits[:50, 1].double()
    torch.testing.assert_close(found, expected[1] - expected[0], atol=1e-3, rtol=1e-4)
    assert torch.equal(two_gaussians(50, 0.1, seed=3)[0], two_gaussians(50, 0.1, seed=3)[0])


def test_the_data_module_deals_the_noisy_labels():
    plain, noisy = (ShardDataModule("digits", label_noise=noise) for noise in (None, LabelNoise(0.3)))
    for data in (plain, noisy):
        data.prepare_data()
        data.setup()
    batch = next(iter(noisy.train_dataloader()))
    assert np.array_equal(batch["label"].numpy(), noisy.index.label[batch["index"].numpy()])
    differ = plain.index.label != noisy.index.label
    assert 0.28 < differ[plain.ids["train"]].mean() <= 0.3
    assert not differ[plain.ids["val"]].any() and not differ[plain.ids["test"]].any()
    with pytest.raises(RectifyError, match=r"data\.label_noise needs the labels"):
        ShardDataModule("some-{0..1}.tar", label_noise=LabelNoise(0.1))
