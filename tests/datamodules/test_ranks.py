"""Order, evaluation, resume on another world size and the sample store, in two gloo processes and one."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from processes import run_ranks

from lightning_rectify.datamodules import SampleStore, ShardDataModule


def flat(lists):
    return list(chain.from_iterable(lists))


SCRIPT = Path(__file__).with_name("ranks_data.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    module = ShardDataModule("digits")
    module.prepare_data()  # before two processes need it
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder):
    return run_ranks(SCRIPT, str(folder))


@pytest.fixture(scope="module")
def one(folder, two):
    return run_ranks(SCRIPT, str(folder), world_size=1)[0]


def test_positions_alternate_over_ranks(one, two):
    assert len(one["whole"]) == 2 * 25 and [len(r["whole"]) for r in two] == [2 * 12] * 2
    for epoch in range(2):
        order = flat(one["whole"][25 * epoch : 25 * (epoch + 1)])
        for rank in range(2):
            mine = flat(two[rank]["whole"][12 * epoch : 12 * (epoch + 1)])
            assert mine == order[rank::2][:600]


def test_the_view_of_a_sample_is_the_same_on_any_rank(one, two):
    both = two[0]["views"] | two[1]["views"]
    common = both.keys() & one["views"].keys()
    assert len(both) == len(two[0]["views"]) + len(two[1]["views"]) == len(common) == 2 * 1200
    assert all(both[key] == one["views"][key] for key in common)


def test_evaluation_is_complete_and_even(one, two):
    per_epoch = [r["evaluated"][: len(r["evaluated"]) // 2] for r in two]
    alone = flat(one["evaluated"][: len(one["evaluated"]) // 2])
    assert [[len(batch) for batch in rank] for rank in per_epoch] == [[50, 50, 35]] * 2
    assert set(flat(per_epoch[0] + per_epoch[1])) == set(alone)
    assert len(alone) == len(set(alone)) == 269  # one of 270 is a repeat with two processes


def test_two_processes_stop_and_one_goes_on(one, two):
    before = flat(two[0]["whole"][:5] + two[1]["whole"][:5])
    assert len(before) == 5 * 100
    first = flat(one["whole"][:25])
    assert sorted(before) == sorted(first[:500])
    after = flat(one["after"])
    assert after == first[500:] + flat(one["whole"][25:])  # no sample lost or repeated, the next epoch whole
    assert one["after_evaluations"] == len(one["evaluated"])


def test_an_imbalanced_split_is_the_same_on_every_process(one, two):
    for rank in two:
        assert (rank["chosen"], rank["class_counts"]) == (one["chosen"], one["class_counts"])
    both = [sorted(a + b) for a, b in zip(two[0]["imbalanced"], two[1]["imbalanced"], strict=True)]
    assert both == [sorted(batch) for batch in one["imbalanced"]] and len(both) > 5


def expected_store():
    index, value = [[3, 3, 7], [7, 3, 0]], [1.0, 2.0, 4.0]
    added = [1.0] * 10
    for rank in range(2):
        for i, v in zip(index[rank], value, strict=True):
            added[i] += v * (1 + rank)
    assigned, masked = list(added), None
    for row in range(3):  # the global batch: row by row, rank by rank
        for rank in range(2):
            assigned[index[rank][row]] = value[row] + 10 * rank
    masked = list(assigned)
    for row in range(3):
        masked[index[0][row]] = value[row]
    return added, assigned, masked


def test_store_loses_no_update(two):
    added, assigned, masked = expected_store()
    for rank in two:
        assert rank["add"] == added
        assert rank["assign"] == assigned
        assert rank["masked"] == masked
        expected = torch.tensor([[0.1], [1.1], [1.2], [0.0]]).expand(4, 2)
        assert torch.allclose(torch.tensor(rank["vectors"]), expected)


def test_store_survives_another_world_size(folder, two):
    states = [torch.load(folder / f"store-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(states[0]["value"], states[1]["value"])
    store = SampleStore(10)
    store.load_state_dict(states[0])
    assert store.value.tolist() == two[0]["masked"]
