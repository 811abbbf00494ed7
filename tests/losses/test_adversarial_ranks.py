"""One process and two gloo processes with uneven batches give equal gradients and equal state."""

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import run_ranks

SCRIPT = Path(__file__).with_name("ranks_adversarial.py")
NAMES = next(
    [key.value for key in node.value.keys]
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "OBJECTIVES"
)


@pytest.fixture(scope="module")
def runs():
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda world: run_ranks(SCRIPT, world_size=world), (1, 2))
    return one[0], two


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one(runs, name):
    one, two = runs
    expected = np.array(one[name]["gradients"])
    assert np.isfinite(expected).all() and np.abs(expected).max() > 1e-3
    for rank in range(2):
        # DDP weighs ranks alike, whatever they hold; the objective's own scale must make up for it
        np.testing.assert_allclose(two[rank][name]["gradients"], expected, rtol=1e-5, atol=1e-7)
        assert two[rank][name]["state"] == pytest.approx(one[name]["state"], rel=1e-5)


def test_the_objectives_differ(runs):
    one, _ = runs
    gradients = [np.array(one[name]["gradients"])[1:] for name in NAMES if name != "alarm"]
    for i, a in enumerate(gradients):
        for b in gradients[:i]:
            assert not np.allclose(a, b)
