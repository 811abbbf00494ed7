"""Eight awkward objectives run, resume, and agree on one and two processes without an edit outside their own file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import run_ranks

SCRIPT = Path(__file__).with_name("ranks_probes.py")
DRAWN = ("fmix", "dirichlet_mixup", "manifold_mixup")
GLOBAL = ("trades_awp", "kl_dro", "scrub", "saliency_soft", "tcm_proxy_anchor")


@pytest.fixture(scope="module")
def runs():
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda world: run_ranks(SCRIPT, world_size=world), (1, 2))
    return one[0], two


@pytest.mark.parametrize("name", DRAWN + GLOBAL)
def test_resume_continues_bit_for_bit(runs, name):
    one, two = runs
    for result in (one[name], two[0][name], two[1][name]):
        assert len(result["losses"]) == 6
        assert result["resumed_losses"] == result["losses"][3:]
        assert result["resumed_equal"]


@pytest.mark.parametrize("name", GLOBAL)
def test_two_processes_train_as_one(runs, name):
    one, two = runs
    for rank in range(2):
        np.testing.assert_allclose(two[rank][name]["weights"], one[name]["weights"], rtol=0, atol=1e-12)
    mean = np.mean([two[rank][name]["losses"] for rank in range(2)], axis=0)
    np.testing.assert_allclose(mean, one[name]["losses"], rtol=1e-12)


@pytest.mark.parametrize("name", DRAWN)
def test_two_processes_equal_a_replay_of_both_ranks_draws(runs, name):
    one, two = runs
    mean = np.mean([two[rank][name]["losses"] for rank in range(2)], axis=0)
    np.testing.assert_allclose(mean, one[name]["replay"]["losses"], rtol=1e-12)
    for rank in range(2):
        np.testing.assert_allclose(two[rank][name]["weights"], one[name]["replay"]["weights"], rtol=0, atol=1e-12)
    assert two[0][name]["losses"] != two[1][name]["losses"]  # ranks draw different masks


@pytest.mark.parametrize("name", GLOBAL)
def test_training_moves_the_loss(runs, name):
    losses = runs[0][name]["losses"]
    assert np.isfinite(losses).all() and len(set(losses)) == 6
