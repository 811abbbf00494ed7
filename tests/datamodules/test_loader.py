import multiprocessing
import time
from itertools import chain

import numpy as np
import pytest
import torch

from lightning_rectify.datamodules import BadSamples, EvaluationLoader, ShardDataModule, TrainingLoader
from lightning_rectify.errors import RectifyError


def flat(lists):
    return list(chain.from_iterable(lists))


class Numbers:
    """A reader whose image is its index."""

    def images(self, indices):
        return torch.from_numpy(indices.astype(np.uint8)).view(-1, 1, 1, 1), []


def training(count=100, batch_size=8, rank=0, world=1, **options):
    ids = np.arange(count) * 2  # so that an index is not its position
    keys = np.array([str(n) for n in range(2 * count)])
    loader = TrainingLoader(
        Numbers(), ids, np.arange(2 * count) % 10, keys, BadSamples(0.01, count), batch_size, **options
    )
    loader.rank, loader.world = rank, world
    return loader


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


def test_epochs_are_permutations_that_depend_on_seed_and_epoch_only():
    loader = training(96)
    epochs = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        epochs.append(flat(indices(loader)))
        assert sorted(epochs[-1]) == list(range(0, 192, 2))
    assert epochs[0] != epochs[1] != epochs[2]
    again = training(96)
    again.set_epoch(2)
    assert flat(indices(again)) == epochs[2]
    assert flat(indices(training(96, seed=1))) != epochs[0]


def test_another_pass_without_a_new_epoch_has_its_own_order():
    loader = training(96)
    first, second = indices(loader), indices(loader)
    assert first != second
    loader.set_epoch(1)
    assert indices(loader) not in (first, second)


def test_iterators_that_are_thrown_away_change_nothing():
    loader = training()
    iter(loader), iter(loader)
    assert indices(loader) == indices(training())


@pytest.mark.parametrize("world", [2, 3])
def test_position_p_goes_to_rank_p_mod_w(world):
    whole = flat(indices(training(drop_last=False)))
    for rank in range(world):
        batches = indices(training(rank=rank, world=world))
        assert len(batches) == 100 // (8 * world)
        assert flat(batches) == whole[rank::world][: 8 * len(batches)]


def test_last_short_batch():
    assert [len(batch) for batch in indices(training())] == [8] * 12
    assert [len(batch) for batch in indices(training(drop_last=False))] == [8] * 12 + [4]
    assert [len(batch) for batch in indices(training(5))] == [5]  # a set smaller than a batch is not lost
    three = [indices(training(rank=rank, world=3, drop_last=False)) for rank in range(3)]
    assert [[len(batch) for batch in rank] for rank in three] == [[8] * 4 + [2]] * 3
    assert set(flat(flat(three))) == set(range(0, 200, 2))
    with pytest.raises(RectifyError, match="use fewer"):
        list(TrainingLoader(Numbers(), np.arange(0), np.zeros(0, int), np.array([]), BadSamples(0.01, 0), 8))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 7, 12])
def test_resume_goes_on_exactly(workers, stop):
    whole = training(workers=workers)
    expected = indices(whole) + indices(whole)
    interrupted = training(workers=workers)
    batches = iter(interrupted)
    before = [next(batches)["index"].tolist() for _ in range(stop)]
    state = interrupted.state_dict()
    resumed = training(workers=workers, seed=5)  # the state's seed counts
    resumed.load_state_dict(state)
    assert len(resumed) == 12
    after = indices(resumed)
    assert before + after == (expected[:12] if stop < 12 else expected)


@pytest.mark.parametrize("old, new", [(2, 1), (1, 2), (2, 3)])
def test_resume_on_another_world_size_loses_and_repeats_nothing(old, new):
    before, states = [], []
    for rank in range(old):
        loader = training(rank=rank, world=old)
        batches = iter(loader)
        before += flat([next(batches)["index"].tolist() for _ in range(3)])
        states.append(loader.state_dict())
    assert all(state == states[0] for state in states)
    after, lengths, resized = [], set(), []
    for rank in range(new):
        loader = training(rank=rank, world=new, on_resize=lambda: resized.append(1))
        loader.load_state_dict(states[0])
        lengths.add(len(loader))
        after += flat(indices(loader))
        loader.set_epoch(1)
        assert len(loader) == 100 // (8 * new)
    assert len(set(before + after)) == len(before + after) > 100 - 8 * new
    assert sorted(before) == sorted(flat(indices(training(drop_last=False)))[: 3 * 8 * old])
    assert lengths == {3 + (100 - 3 * 8 * old) // (8 * new)}
    assert resized


def test_state_of_other_data_is_refused():
    with pytest.raises(RectifyError, match=r"100 samples, data\.source has 90"):
        training(90).load_state_dict(training(100).state_dict())


def test_view_keys_belong_to_sample_and_epoch():
    views = {}
    for batch_size, rank, world in ((8, 0, 1), (5, 1, 2)):
        for batch in training(batch_size=batch_size, rank=rank, world=world):
            for index, view in zip(batch["index"].tolist(), batch["view"].tolist(), strict=True):
                assert views.setdefault(index, view) == view
    assert len(set(views.values())) == len(views)
    other = training()
    other.set_epoch(1)
    assert all(
        views.get(int(i)) != int(v) for batch in other for i, v in zip(batch["index"], batch["view"], strict=True)
    )


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 16, 17])
def test_evaluation_visits_every_sample_with_even_batches(monkeypatch, world, count):
    from lightning_rectify import collectives

    monkeypatch.setattr(collectives, "world_size", lambda: world)
    seen, shapes = [], []
    for rank in range(world):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        loader = EvaluationLoader(
            Numbers(), np.arange(count) + 3, np.zeros(30, int), np.arange(30), BadSamples(0.01, count), batch_size=4
        )
        batches = indices(loader)
        assert len(batches) == len(loader)
        seen += flat(batches)
        shapes.append([len(batch) for batch in batches])
    assert set(seen) == set(range(3, count + 3))
    assert len(seen) - count < world
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cache_and_workers_give_the_same_batches(cache, workers):
    def batches(**options):
        module = ShardDataModule("digits", batch_size=50, **options)
        module.prepare_data()
        module.setup()
        return [*module.train_dataloader(), *module.test_dataloader()]

    for one, other in zip(batches(), batches(cache=cache, workers=workers), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


class Slow(Numbers):
    def images(self, indices):
        time.sleep(0.05)
        return super().images(indices)


def test_a_worker_that_is_killed():
    loader = training(workers=1)
    loader._fetch.reader = Slow()
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(RectifyError, match=r"A reader process died .*fewer data\.workers") as caught:
        list(batches)
    assert "\n" not in str(caught.value)
