"""Forget and retain streams against a plain recount, resumed at every batch, in one and two processes."""

import json
import runpy
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_ranks

from lightning_rectify.datamodules import BadSamples, PadCrop, ShardDataModule, unlearning_stream

FORGET, RETAIN = np.arange(0, 60, 3), np.setdiff1d(np.arange(100), np.arange(0, 60, 3))  # 20 and 80 samples


class Numbers:
    """A reader whose image is its index."""

    def images(self, indices):
        return torch.from_numpy(indices.astype(np.uint8)).view(-1, 1, 1, 1), []


def stream(schedule, forget=FORGET, retain=RETAIN, batch_size=8, rank=0, world=1, **options):
    parts = {
        "reader": Numbers(),
        "labels": np.arange(100) % 10,
        "keys": np.array([str(n) for n in range(100)]),
        "bad": BadSamples(0.01, 100),
        "batch_size": batch_size,
        **options,
    }
    loader = unlearning_stream(schedule, forget, retain, True, **parts)
    for part in (getattr(loader, "forget", None), getattr(loader, "retain", None), loader):
        if part is not None:
            part.rank, part.world = rank, world
    return loader


def seen(batch):
    if "image" in batch:
        flags = batch["forget"].tolist() if "forget" in batch else None
        return batch["index"].tolist(), flags
    return tuple(part and part["index"].tolist() for part in (batch["forget"], batch["retain"]))


def test_a_forget_pass_then_a_retain_pass():
    loader = stream("forget_then_retain")
    steps = [seen(batch) for batch in loader]
    assert len(steps) == len(loader) == 3 + 10
    assert [(f is not None, r is not None) for f, r in steps] == [(True, False)] * 3 + [(False, True)] * 10
    forget = list(chain.from_iterable(f for f, _ in steps[:3]))
    retain = list(chain.from_iterable(r for _, r in steps[3:]))
    assert sorted(forget) == FORGET.tolist() and sorted(retain) == RETAIN.tolist()  # the short batch of forget comes
    again = [seen(batch) for batch in loader]
    loader.set_epoch(1)
    assert steps != again != [seen(batch) for batch in loader]


@pytest.mark.parametrize("swapped", [False, True])
def test_pairs_cycle_the_shorter_stream(swapped):
    forget, retain = (RETAIN, FORGET) if swapped else (FORGET, RETAIN)
    loader = stream("paired", forget, retain)
    steps = [seen(batch) for batch in loader]
    assert len(steps) == len(loader) == 10 and all(f and r for f, r in steps)
    short, long = zip(*(pair[::-1] if swapped else pair for pair in steps), strict=True)
    assert sorted(chain.from_iterable(long)) == RETAIN.tolist()
    cycle = 2 if swapped else 3  # the last, short batch of retain is dropped, that of forget is not
    passes = [sorted(chain.from_iterable(short[i : i + cycle])) for i in range(0, 9, cycle)]
    assert all(set(one) <= set(FORGET) and len(one) == (16 if swapped else 20) for one in passes[:3])
    assert short[:cycle] != short[cycle : 2 * cycle]


def test_mixed_batches_are_marked():
    steps = [seen(batch) for batch in stream("mixed")]
    assert len(steps) == 12
    assert all(
        flag == (index in FORGET) for indices, flags in steps for index, flag in zip(indices, flags, strict=True)
    )
    assert {flag for _, flags in steps for flag in flags} == {True, False}


def test_retain_alone():
    steps = [seen(batch) for batch in stream("retain")]
    assert sorted(chain.from_iterable(indices for indices, _ in steps)) == RETAIN.tolist()


def test_forget_alone():
    steps = [seen(batch) for batch in stream("forget")]
    assert sorted(chain.from_iterable(forget for forget, _ in steps)) == FORGET.tolist()
    assert all(retain is None for _, retain in steps)


@pytest.mark.parametrize("schedule", ["forget_then_retain", "paired", "mixed", "forget", "retain"])
def test_resume_at_every_batch(schedule):
    whole = stream(schedule)
    expected = [seen(batch) for batch in whole]
    whole.set_epoch(1)
    following = [seen(batch) for batch in whole]
    for stop in range(len(expected) + 1):
        interrupted = stream(schedule)
        batches = iter(interrupted)
        before = [seen(next(batches)) for _ in range(stop)]
        resumed = stream(schedule, seed=5)  # the state's seed counts
        resumed.load_state_dict(interrupted.state_dict())
        assert len(resumed) == len(expected)
        assert resumed.standing().left == len(expected) - stop
        if stop < len(expected):
            assert before + [seen(batch) for batch in resumed] == expected, f"stopped at {stop}"
        resumed.set_epoch(1)
        assert [seen(batch) for batch in resumed] == following


@pytest.mark.parametrize("schedule", ["forget_then_retain", "paired", "forget"])
def test_a_step_of_two_ranks_is_a_step_of_one_with_twice_the_batch(schedule):
    one = [seen(batch) for batch in stream(schedule, batch_size=16)]
    two = [[seen(batch) for batch in stream(schedule, rank=rank, world=2)] for rank in range(2)]
    assert len(two[0]) == len(two[1]) == len(one)
    for alone, *shared in zip(one, *two, strict=True):
        for side in range(2):
            if alone[side] is None:
                assert all(part[side] is None for part in shared)
            else:
                assert sorted(chain.from_iterable(part[side] for part in shared)) == sorted(alone[side])


def test_a_forget_pass_reads_only_the_shards_it_needs(tmp_path):
    from lightning_rectify.datamodules import build_shards, read_manifest

    build_shards(source="digits", out=tmp_path / "shards", name="digits", shard_size=300)
    manifest, index = read_manifest(tmp_path / "shards")
    assert len(manifest.shards) > 3
    wanted = index.train[index.shard[index.train] == 1][:20]
    np.save(tmp_path / "wanted.npy", wanted)
    module = ShardDataModule(str(tmp_path / "shards"), cache="none", forget=f"index:{tmp_path / 'wanted.npy'}")
    module.setup()
    opened = set()
    rows = module._reader._rows
    module._reader._rows = lambda shard, indices: opened.add(int(shard)) or rows(shard, indices)
    assert [i for batch in module.forget_dataloader() for i in batch["index"].tolist()] == wanted.tolist()
    assert opened == {1}


def test_parts_become_floats_and_are_augmented_like_a_flat_batch():
    class Training:
        training, lightning_module = True, None

    module = ShardDataModule("digits", batch_size=32, augment=[PadCrop(2)], forget="class:3", schedule="paired")
    module.prepare_data()
    module.setup()
    module.trainer = Training()
    batch = next(iter(module.train_dataloader()))
    moved = module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
    for name in ("forget", "retain"):
        flat = module.on_after_batch_transfer(module.on_before_batch_transfer(batch[name], 0), 0)
        assert moved[name]["image"].dtype == torch.float32 and "view" not in moved[name]
        assert torch.equal(moved[name]["image"], flat["image"])
        assert not torch.equal(moved[name]["image"] * 255, batch[name]["image"].float())
    one_pass = {"forget": batch["forget"], "retain": None}
    assert module.on_after_batch_transfer(module.on_before_batch_transfer(one_pass, 0), 0)["retain"] is None


SCRIPT = Path(__file__).with_name("ranks_unlearning.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    ShardDataModule("digits").prepare_data()
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder):
    return run_ranks(SCRIPT, str(folder))


@pytest.fixture(scope="module")
def one(folder, two):
    with pytest.MonkeyPatch.context() as patched:  # a launch would cost the imports again
        patched.setenv("RANK_REPORT", str(folder / "one.json"))
        patched.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads((folder / "one.json").read_text())


def flat(lists):
    return list(chain.from_iterable(lists))


def test_two_processes_see_what_one_sees(one, two):
    for name in ("forget_then_retain", "paired"):
        assert len(two[0][name]) == len(two[1][name]) == len(one[name])
        for step, alone in enumerate(one[name]):
            for side in range(2):
                parts = [rank[name][step][side] for rank in two]
                if alone[side] is None:
                    assert parts == [None, None]
                else:
                    together = flat(parts)
                    assert set(together) >= set(alone[side])
                    assert len(together) - len(alone[side]) == len(alone[side]) % 2  # made even by one that is repeated


def test_one_process_goes_on_where_two_stopped_in_either_pass(one, two):
    whole = one["forget_then_retain"]
    for stopped_after in (1, 5):
        after = one[f"after_{stopped_after}"]
        done = flat(flat(filter(None, step)) for step in whole[:stopped_after])
        rest = flat(flat(filter(None, step)) for step in after)
        assert not set(done) & set(
            rest[: len(flat(flat(filter(None, s)) for s in whole[: len(whole) // 2])) - len(done)]
        )
        assert rest == flat(flat(filter(None, step)) for step in whole[stopped_after:])


def test_evaluation_of_both_sets_is_even_and_complete(one, two):
    for name in ("forget", "retain"):
        sizes = [[len(batch) for batch in rank[f"evaluated_{name}"]] for rank in two]
        assert sizes[0] == sizes[1]
        assert set(flat(flat(rank[f"evaluated_{name}"]) for rank in two)) == set(flat(one[f"evaluated_{name}"]))


def test_fewer_samples_to_forget_than_processes(two):
    assert all(rank["single"] for rank in two) and two[0]["single"] == two[1]["single"]
