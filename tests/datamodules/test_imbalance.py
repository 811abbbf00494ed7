"""Imbalanced training splits against published counts, and through the data module."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import pytorch_lightning as pl

from lightning_rectify.attacks import PGD
from lightning_rectify.backbones import ResNet
from lightning_rectify.datamodules import LabelNoise, LongTail, ShardDataModule, StepImbalance
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.losses import (
    AdversarialTraining,
    Alternate,
    ClassBalancedWeights,
    EmpiricalRisk,
    KLDROWeights,
)

CIFAR = np.repeat(np.arange(10), 5000)


def counts(imbalance, labels=CIFAR):
    return np.bincount(labels[imbalance.keep(np.arange(len(labels)), labels)]).tolist()


def digits(imbalance=None, **options):
    data = ShardDataModule("digits", imbalance=imbalance, **{"batch_size": 32, **options})
    data.prepare_data()
    data.setup()
    return data


def test_published_counts():
    """CIFAR-10-LT of Cao et al. 2019, and step imbalance."""
    assert counts(LongTail(0.01)) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert counts(LongTail(0.1)) == [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert counts(StepImbalance(0.1)) == [5000] * 5 + [500] * 5
    assert counts(StepImbalance(0.01, tail=0.3)) == [5000] * 7 + [50] * 3
    assert counts(StepImbalance(1.0)) == counts(LongTail(1.0)) == [5000] * 10


def test_shares_are_of_the_class_and_exact():
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat([2, 3, 5, 8], [100, 700, 1300, 211]))  # some labels have no sample
    for hundredths in range(1, 101):
        found = counts(StepImbalance(hundredths / 100), labels)
        tail = [floor(n * Fraction(hundredths, 100)) for n in (1300, 211)]
        assert [found[c] for c in (2, 3, 5, 8)] == [100, 700, *tail]


def test_the_choice_hangs_on_its_own_seed_and_is_nested(monkeypatch):
    ids = np.arange(len(CIFAR))
    chosen = LongTail(0.1).keep(ids, CIFAR)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert np.array_equal(LongTail(0.1).keep(ids[::-1], CIFAR), chosen) and np.all(np.diff(chosen) > 0)
    other = LongTail(0.1, seed=1).keep(ids, CIFAR)
    assert len(other) == len(chosen) and not np.array_equal(other, chosen)
    assert set(LongTail(0.01).keep(ids, CIFAR)) < set(chosen)
    assert set(StepImbalance(0.01).keep(ids, CIFAR)) < set(StepImbalance(0.1).keep(ids, CIFAR))
    # drawn from the whole class, not its first samples
    own = chosen[CIFAR[chosen] == 9] - 9 * 5000
    assert abs(own.mean() - 2500) < 300


def test_only_the_training_split_changes():
    whole, data = digits(), digits(StepImbalance(0.1))
    before = whole.manifest.counts["train"]
    assert whole.class_counts == before == data.manifest.counts["train"]
    assert data.class_counts == before[:5] + [n // 10 for n in before[5:]]
    assert set(data.ids["train"]) < set(whole.ids["train"])
    for split in ("val", "test"):
        assert np.array_equal(data.ids[split], whole.ids[split])
    data = digits(StepImbalance(0.1), drop_last=False)
    seen = np.concatenate([batch["index"].numpy() for batch in data.train_dataloader()])
    assert np.array_equal(np.sort(seen), data.ids["train"])
    assert np.bincount(data.index.label[seen]).tolist() == data.class_counts


def test_imbalance_goes_by_true_labels_and_noise_by_what_is_left():
    clean, noisy = digits(StepImbalance(0.1)), digits(StepImbalance(0.1), label_noise=LabelNoise(0.2))
    assert np.array_equal(noisy.ids["train"], clean.ids["train"])
    true, given = (data.index.label[clean.ids["train"]] for data in (clean, noisy))
    counts = np.bincount(true)
    assert np.bincount(true[true != given], minlength=10).tolist() == [n // 5 for n in counts]
    assert noisy.class_counts == np.bincount(given, minlength=10).tolist()


def test_resume_goes_on_with_the_same_samples():
    expected = [batch["index"].tolist() for batch in digits(LongTail(0.1)).train_dataloader()]
    stopped = digits(LongTail(0.1))
    batches = iter(stopped.train_dataloader())
    for _ in range(5):
        next(batches)
    resumed = digits(LongTail(0.1))
    resumed.load_state_dict(stopped.state_dict())
    assert [batch["index"].tolist() for batch in resumed.train_dataloader()] == expected[5:]
    other = digits(LongTail(0.2))
    other.load_state_dict(stopped.state_dict())
    with pytest.raises(RectifyError, match="resume with the same data"):
        other.train_dataloader()


def test_counts_reach_the_weightings_wherever_they_are(tmp_path):
    given = ClassBalancedWeights([1] * 9 + [2], "inverse")
    inner, prior = ClassBalancedWeights(kind="inverse"), ClassBalancedWeights(kind="inverse")
    objective = Alternate(
        [
            AdversarialTraining(PGD(steps=1), weighting=inner),
            AdversarialTraining(weighting=KLDROWeights(prior=prior)),
            AdversarialTraining(weighting=given),
            EmpiricalRisk(),
        ]
    )
    data = digits(StepImbalance(0.1))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Classifier(ResNet(10, 1, width=8), objective), data)
    largest = max(data.class_counts)
    for weighting in (inner, prior):
        assert weighting.class_weight.tolist() == pytest.approx([largest / n for n in data.class_counts])
    assert given.class_weight.tolist() == [2.0] * 9 + [1.0]


def test_what_cannot_be_done_is_refused():
    for build, words in (
        (lambda: StepImbalance(0), "ratio is 0"),
        (lambda: LongTail(1.5), "ratio is 1.5"),
        (lambda: LongTail(float("nan")), "ratio is nan"),
        (lambda: StepImbalance(tail=0), "tail is 0"),
        (lambda: counts(StepImbalance(0.1), np.arange(4)), "none of the 1 training samples of class 2; raise"),
        (lambda: counts(StepImbalance(0.5, 0.1), np.arange(4)), "is 0 of 4 classes"),
        (lambda: ShardDataModule("a-{0..1}.tar", imbalance=LongTail()), "data.imbalance needs the labels"),
    ):
        with pytest.raises(RectifyError, match=words):
            build()
