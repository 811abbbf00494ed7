"""Alternation: the sequence, what is forwarded to the children, what is refused."""

from collections import Counter

import pytest
import torch

from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import Alternate, Context, EmpiricalRisk, FMix, ManifoldMixup, Mixup
from lightning_rectify.losses.objective import Objective


class Counting(EmpiricalRisk):
    needs_index = True
    frozen_copies = 2
    double_backward = True

    def setup(self, backbone):
        self.calls = ["setup"]

    def after_step(self, backbone):
        self.calls.append("after")


class Retaining(Objective):
    needs_retain = True


def chosen(objective: Alternate, steps: int, rank: int = 0, seed: int = 0) -> list[int]:
    return [objective.choose(Context(step, key=(seed, rank, 0, 2 * step + rank))) for step in range(steps)]


def test_strict_sequence():
    assert chosen(Alternate([Mixup(), FMix()]), 5) == [0, 1, 0, 1, 0]
    assert chosen(Alternate([Mixup(), FMix(), EmpiricalRisk()], [2, 1, 3]), 8) == [0, 0, 1, 2, 2, 2, 0, 0]


def test_weighted_frequencies_follow_seed_and_step_only():
    objective = Alternate([Mixup(), FMix(), EmpiricalRisk()], [1, 2, 5], "weighted")
    sequence = chosen(objective, 4000)
    counts = Counter(sequence)
    assert [counts[i] / 4000 for i in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
    assert chosen(objective, 4000, rank=1) == sequence
    assert chosen(objective, 4000, seed=1) != sequence


def test_step_is_the_chosen_childs():
    model, data = ResNet(4, 1, width=8).eval(), {"image": torch.rand(4, 1, 8, 8), "label": torch.arange(4)}
    children = [Mixup(), EmpiricalRisk()]
    objective = Alternate(children)
    for step in range(2):
        context = Context(step)
        mine, its = objective(model, data, context), children[step](model, data, context)
        assert torch.equal(mine.loss, its.loss)
        assert torch.equal(mine.target, its.target)
        assert mine.terms["alternate"] == step
    assert "mixing_on" not in mine.terms


def test_setup_needs_and_after_step_reach_the_children():
    model, data = ResNet(4, 1, width=8), {"image": torch.rand(4, 1, 8, 8), "label": torch.arange(4)}
    child = Counting()
    objective = Alternate([Mixup(), child])
    assert objective.needs_index
    assert objective.double_backward
    assert objective.frozen_copies == 2
    assert not objective.writes_weights
    objective.setup(model)
    for step in range(4):
        objective(model, data, Context(step))
        objective.after_step(model)
    assert child.calls == ["setup", "after", "after"]
    with pytest.raises(RectifyError, match="layer9"):
        Alternate([Mixup(), ManifoldMixup(["layer9"])]).setup(model)


@pytest.mark.parametrize(
    "arguments, key",
    [
        ({"objectives": [Mixup()]}, "objectives"),
        ({"objectives": [Mixup(), FMix()], "weights": [1]}, "weights"),
        ({"objectives": [Mixup(), FMix()], "weights": [1, 0]}, "weights"),
        ({"objectives": [Mixup(), FMix()], "weights": [0.5, 1]}, "whole steps"),
        ({"objectives": [Mixup(), FMix()], "mode": "random"}, "mode"),
        ({"objectives": [Mixup(), Retaining()]}, "needs_retain"),
    ],
)
def test_bad_arguments_name_themselves(arguments, key):
    with pytest.raises(RectifyError, match=key):
        Alternate(**arguments)


def test_idle_children_get_a_zero_gradient():
    class Own(EmpiricalRisk):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    own, model = Own(), ResNet(4, 1, width=8)
    data = {"image": torch.rand(4, 1, 8, 8), "label": torch.arange(4)}
    step = Alternate([Mixup(), own])(model, data, Context(0))
    assert torch.equal(step.loss, Mixup()(model, data, Context(0)).loss)
    step.loss.backward()
    assert torch.equal(own.scale.grad, torch.zeros(3))
    assert own.frozen.grad is None
