"""One process and two gloo processes with uneven shares of the forgotten samples give equal gradients."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from processes import run_ranks

SCRIPT = Path(__file__).with_name("ranks_unlearning.py")


@pytest.fixture(scope="module")
def runs():
    return runpy.run_path(str(SCRIPT))["results"](0, 1), run_ranks(SCRIPT)


def test_two_processes_train_as_one(runs):
    one, two = runs
    assert len(one) >= 40
    for name, expected in one.items():
        gradient = np.array(expected["gradients"])
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-4, name
        for rank in range(2):
            np.testing.assert_allclose(two[rank][name]["gradients"], gradient, rtol=1e-7, atol=1e-10, err_msg=name)
            np.testing.assert_allclose(
                two[rank][name]["weights"], expected["weights"], rtol=1e-7, atol=1e-7, err_msg=name
            )


def test_logged_means_are_those_of_all_samples(runs):
    one, two = runs
    for name, expected in one.items():
        for step, terms in enumerate(expected["terms"]):
            ranks = [two[rank][name]["terms"][step] for rank in range(2)]
            assert ranks[0].keys() == ranks[1].keys() == terms.keys(), name
            for key in terms:
                mean = (ranks[0][key] + ranks[1][key]) / 2
                assert mean == pytest.approx(terms[key], rel=1e-9, abs=1e-12), (name, key)


def test_the_objectives_differ(runs):
    one, _ = runs
    mixed = {name: np.array(result["gradients"]) for name, result in one.items() if name.endswith("/mixed")}
    names = sorted(mixed)
    # of the same shape: one has a class more
    same = [(a, b) for i, a in enumerate(names) for b in names[:i] if mixed[a].shape == mixed[b].shape]
    alike = [pair for pair in same if np.allclose(mixed[pair[0]], mixed[pair[1]])]
    assert len(same) > 60 and alike == []
