"""The relearning attack: a logistic model whose steps are known in closed form, and what must stay untouched."""

import pytest
import torch
from torch import nn

from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import RelearningCurve, relearn, relearning_curve


def test_curve_measures_where_it_says():
    done = []
    curve = relearning_curve(done.append, lambda: 10.0 * len(done), steps=5, every=2)
    assert (curve.steps, curve.accuracy) == ([0, 2, 4, 5], [0, 20, 40, 50])
    assert done == [0, 1, 2, 3, 4]
    assert (curve.steps_to(15), curve.steps_to(0), curve.steps_to(90)) == (2, 0, None)
    assert curve.area == pytest.approx(25)
    assert RelearningCurve([0], [7.0]).area == 7


def test_relearning_is_sgd_on_the_whole_set_when_a_batch_holds_it():
    """Two momentum steps of soft-max regression, written out."""
    image, label = torch.randn(20, 1, 2, 2), torch.randint(3, (20,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    weight, speed = model[1].weight.detach().double().clone(), torch.zeros(3, 4, dtype=torch.float64)
    x, y = image.flatten(1).double(), nn.functional.one_hot(label).double()
    found = relearn(model, image, label, steps=2, lr=0.5, batch_size=20)
    expected = [100 * float(((x @ weight.T).argmax(1) == label).double().mean())]
    for _ in range(2):
        speed = 0.9 * speed + ((x @ weight.T).softmax(1) - y).T @ x / 20
        weight = weight - 0.5 * speed
        expected.append(100 * float(((x @ weight.T).argmax(1) == label).double().mean()))
    assert found.accuracy == pytest.approx(expected)
    assert found.accuracy[-1] > found.accuracy[0]


def test_the_attacked_model_stays_as_it_is():
    image, label = torch.rand(30, 1, 4, 4), torch.arange(30) % 2
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2))
    model[2].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        first = relearn(model, image, label, steps=6, batch_size=8, every=3)
    assert first == relearn(model, image, label, steps=6, batch_size=8, every=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training and not model[2].weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_with_few_shots_the_attacker_knows_only_those():
    """Labels that only the known samples share: an attacker with one shot a class gets the others wrong."""
    image = torch.eye(8).view(8, 1, 1, 8)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2)[1 - label].T)
    assert relearn(model, image, label, steps=50, lr=1.0, shots=1).accuracy[-1] == 25
    assert relearn(model, image, label, steps=50, lr=1.0).accuracy[-1] == 100


def test_no_steps_are_refused():
    with pytest.raises(RectifyError, match="at least 1"):
        relearning_curve(lambda i: None, lambda: 0.0, steps=0)
