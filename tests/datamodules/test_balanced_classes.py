"""P×K batches: what is in them, over ranks and after a resume."""

import numpy as np
import pytest
import torch

from lightning_rectify.datamodules import BadSamples, BalancedClasses, BalancedLoader, ShardDataModule
from lightning_rectify.errors import RectifyError

LABELS = np.repeat(np.arange(10), [3, 5, 8, 8, 8, 8, 20, 40, 40, 40])
KEY = (7, 0, 0)


class Zeros:
    def images(self, indices):
        return torch.zeros(len(indices), 1, 2, 2, dtype=torch.uint8), []


def loader(rank=0, world=1, batch_size=12, labels=LABELS, k=3):
    parts = {"labels": labels, "keys": np.arange(len(labels)).astype(str), "bad": BadSamples(0.01, len(labels))}
    made = BalancedLoader(
        sampler=BalancedClasses(k),
        reader=Zeros(),
        indices=np.arange(len(labels)),
        batch_size=batch_size,
        seed=3,
        **parts,
    )
    made.rank, made.world = rank, world
    return made


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


def test_a_batch_holds_p_classes_with_k_different_samples():
    order = BalancedClasses(3).order(LABELS, 12, *KEY).reshape(-1, 12)
    assert len(order) == len(LABELS) // 12
    for batch in order:
        groups = batch.reshape(4, 3)
        assert (LABELS[groups] == LABELS[groups[:, :1]]).all()
        assert len(set(LABELS[groups[:, 0]])) == 4
        assert len(set(batch.tolist())) == 12


def test_classes_are_met_equally_often_and_samples_without_repeats():
    order = BalancedClasses(4).order(LABELS, 8, *KEY).reshape(-1, 4)
    groups = np.bincount(LABELS[order[:, 0]], minlength=10)
    assert groups.max() - groups.min() <= 1
    for label, rounds in ((9, 10), (2, 2)):  # 40 and 8 samples: 10 and 2 groups before one repeats
        own = order[LABELS[order[:, 0]] == label][:rounds]
        assert len(set(own.flatten().tolist())) == own.size
    small = order[LABELS[order[:, 0]] == 0]
    assert all(len(set(group.tolist())) == 3 for group in small)  # 3 samples in groups of 4: one twice


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = [BalancedClasses(3).order(LABELS, 12, *key).tolist() for key in (KEY, KEY, (7, 1, 0), (8, 0, 0))]
    assert orders[0] == orders[1] and len({tuple(order) for order in orders}) == 3


def test_ranks_divide_the_batches_of_one_process():
    whole = indices(loader(batch_size=12))
    halves = [indices(loader(rank, 2, batch_size=12)) for rank in range(2)]
    assert len(halves[0]) == len(halves[1]) == len(whole) // 2
    together = [batch for pair in zip(*halves, strict=True) for batch in pair]
    assert together == whole[: len(together)]


@pytest.mark.parametrize("world", [1, 2])
def test_resume_goes_on_with_the_next_batch(world):
    whole = indices(loader(0, 1))
    first = loader(0, 1)
    iterator = iter(first)
    for _ in range(4):
        next(iterator)
    state = first.state_dict()
    rest = []
    for rank in range(world):
        resumed = loader(rank, world)
        resumed.load_state_dict(state)
        rest.append(indices(resumed))
    together = [batch for group in zip(*rest, strict=True) for batch in group]
    assert together == whole[4 : 4 + len(together)] and len(together) >= len(whole) - 4 - (world - 1)


def test_the_data_module_samples_by_class():
    data = ShardDataModule("digits", batch_size=20, sampler=BalancedClasses(4))
    data.prepare_data()
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.ids["train"]) // 20
    for batch in batches:
        assert sorted(np.bincount(batch["label"], minlength=10))[5:] == [4] * 5
    assert "view" in batches[0]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: BalancedClasses(1), "samples_per_class is 1"),
        (lambda: BalancedClasses(4, 1), "classes_per_batch is 1"),
        (lambda: ShardDataModule("digits", batch_size=30, sampler=BalancedClasses(4)), "set data.batch_size to 28"),
        (lambda: ShardDataModule("digits", batch_size=32, sampler=BalancedClasses(4, 4)), "set data.batch_size to 16"),
        (lambda: ShardDataModule("a-{0..3}.tar", batch_size=32, sampler=BalancedClasses(4)), "build one"),
        (lambda: BalancedClasses(2).order(LABELS, 40, *KEY), "needs 20 classes"),
        (lambda: loader(labels=LABELS[:10], batch_size=12), "fewer than one step"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(RectifyError) as caught:
        make()
    assert said in str(caught.value)
