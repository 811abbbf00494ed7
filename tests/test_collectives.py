"""Collectives in one process are the identity, in two they give the sums and gradients of one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_ranks

from lightning_rectify import collectives


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(Path(__file__).with_name("ranks_collectives.py"))


def test_one_process_is_the_identity():
    value = torch.arange(3.0, requires_grad=True)
    assert collectives.gather_with_gradient(value) is value
    assert collectives.sum_over_ranks(value) is value
    assert collectives.gather_rows(value)[0] is value
    assert (collectives.rank(), collectives.world_size(), collectives.any_rank(True)) == (0, 1, True)


def test_sums_gathers_and_flags(ranks):
    for report in ranks:
        assert report["sum"] == [3.0, 5.0]
        assert report["rows"] == [[0.0, 1.0], [10.0]]  # uneven
        assert report["any"] == [True, False]
        assert report["object"] == {"from": 0}


def test_a_loss_over_gathered_rows_has_the_gradient_of_one_process(ranks):
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    data = torch.arange(8, dtype=torch.float64).view(4, 2) / 10
    rows = data * weight
    (rows @ rows.T).tanh().sum().backward()
    for report in ranks:
        np.testing.assert_allclose(report["whole"], weight.grad.numpy(), rtol=1e-12)
        np.testing.assert_allclose(report["share"], weight.grad.numpy(), rtol=1e-12)
        assert report["counts"] == [1, 3]
        np.testing.assert_allclose(report["uneven"], weight.grad.numpy(), rtol=1e-12)


def test_means_of_alternating_terms_go_on_after_a_resume(ranks):
    whole, resumed = ranks[0]["means"]
    assert whole == resumed == ranks[1]["means"][1]
    assert whole == pytest.approx({"loss": 4.0, "a": 5.0, "b": (2 * (4 + 6) + 3 * (4 + 7)) / 10})


def test_a_globally_normalised_sum_has_the_gradient_of_one_process(ranks):
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) * weight).exp().mean().backward()
    for report in ranks:
        np.testing.assert_allclose(report["normalised"], weight.grad.numpy(), rtol=1e-6)


def test_what_rank_zero_finds_or_breaks_on_is_told_to_all(ranks):
    for report in ranks:
        assert report["told"] == [{"from": 0}, "RectifyError: bins is 1.", "RuntimeError: rank 0: Local('x')"]
