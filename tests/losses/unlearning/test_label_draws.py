"""Label policies: distribution, independence of order, and the published words of the generator behind them."""

import pytest
import torch
from scipy.stats import chisquare

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import Context, RandomLabel, epoch_labels, parts, portions, splitmix64

N, CLASSES = 40_000, 10


def drawn(policy, exclude, epoch=0, rank=0, seed=0, rows=None):
    rows = torch.arange(N) if rows is None else rows
    batch = {"image": rows[:, None], "label": rows % CLASSES, "index": rows}
    (portion,) = portions({"forget": batch, "retain": None})
    context = Context(key=(seed, rank, epoch, 5))
    return RandomLabel(exclude, policy).draw(portion, CLASSES, context), batch["label"]


def test_generator_gives_the_published_words():
    """The first words of SplitMix64 from seeds 0 and 1234567, as its reference implementation prints them."""
    words = [word % 2**64 for word in splitmix64(torch.arange(3), 0).tolist()]
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(torch.arange(2), 1234567).tolist() == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("policy", ["batch", "epoch"])
def test_uniform_labels_match_one_in_each_class(policy):
    labels, true = drawn(policy, False)
    assert chisquare(torch.bincount(labels, minlength=CLASSES)).pvalue > 1e-3
    share = (labels == true).double().mean().item()
    assert abs(share - 1 / CLASSES) < 4 * (0.09 / N) ** 0.5


@pytest.mark.parametrize("policy", ["batch", "epoch"])
def test_excluding_labels_never_emit_the_true_one_and_are_uniform_over_the_others(policy):
    labels, true = drawn(policy, True)
    assert not (labels == true).any() and labels.min() >= 0 and labels.max() < CLASSES
    shift = (labels - true) % CLASSES
    assert chisquare(torch.bincount(shift, minlength=CLASSES)[1:]).pvalue > 1e-3


def test_epoch_labels_depend_on_seed_epoch_and_sample_alone():
    whole, _ = drawn("epoch", False)
    order = torch.randperm(N)
    assert torch.equal(drawn("epoch", False, rank=1, rows=order)[0], whole[order])  # another rank, another order
    for other in (drawn("epoch", False, epoch=1), drawn("epoch", False, seed=1)):
        assert abs((other[0] == whole).double().mean().item() - 1 / CLASSES) < 0.01  # and independent otherwise


def test_neighbouring_samples_and_epochs_are_uncorrelated():
    words = torch.stack([drawn("epoch", False, epoch)[0] for epoch in range(4)])
    pairs = [(words[:, 1:], words[:, :-1]), (words[1:], words[:-1])]
    for a, b in pairs:
        table = torch.bincount((a * CLASSES + b).flatten(), minlength=CLASSES**2)
        assert chisquare(table).pvalue > 1e-3


def test_batch_labels_differ_by_rank_epoch_and_repeat_by_key():
    first, _ = drawn("batch", False)
    assert torch.equal(first, drawn("batch", False)[0])
    for other in (drawn("batch", False, rank=1), drawn("batch", False, epoch=1)):
        assert not torch.equal(other[0], first)


def test_only_epoch_labels_need_the_index():
    assert RandomLabel(labels="epoch").needs_index and not RandomLabel().needs_index
    with pytest.raises(RectifyError, match="labels is 'step'; choose batch or epoch"):
        RandomLabel(labels="step")


def test_mixed_and_split_batches_draw_the_same_epoch_labels(mixed):
    context = Context(key=(1, 0, 2, 0))
    label, index, chosen = mixed["label"], mixed["index"], mixed["forget"]
    whole = epoch_labels(label, index, CLASSES, True, context)
    alone = parts(mixed)[0]
    assert torch.equal(whole[chosen], epoch_labels(alone["label"], alone["index"], CLASSES, True, context))
