"""The choice among maps: by held-out proper score, the same every time; folding into the head."""

import pytest
import torch
from torch import nn

from lightning_rectify.backbones import Backbone
from lightning_rectify.calibration import (
    CalibratedBackbone,
    MatrixScaling,
    TemperatureScaling,
    VectorScaling,
    check_disjoint,
    choose_map,
    compare_maps,
    folded,
)
from lightning_rectify.calibration.selection import MAPS
from lightning_rectify.errors import RectifyError

K = 5
QUICK = [name for name in MAPS if name not in ("h_calibration", "dirichlet")]


def sample(n, scale=3.0):
    true = torch.randn(n, K)
    return true * scale, torch.distributions.Categorical(logits=true).sample()


class Net(Backbone):
    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Linear(6, 8), nn.Linear(8, K)

    def features(self, image):
        return self.body(image).relu()

    def head(self, features):
        return self.classifier(features)


def test_the_choice_has_the_least_held_out_score_and_repeats():
    logits, label = sample(900)
    choice = choose_map(logits, label, QUICK)
    assert choice.held_out[choice.name] == min(choice.held_out.values())
    assert set(choice.held_out) == {"none", *QUICK}
    assert choice.held_out == choose_map(logits, label, QUICK).held_out
    assert choice.name not in ("histogram", "isotonic")  # a pure temperature error needs no counting
    assert choose_map(logits, label, ["temperature", "vector"], "brier").held_out["none"] > 0


def test_no_map_is_chosen_where_none_helps():
    logits, label = sample(200, scale=1.0)
    choice = choose_map(logits, label, ["histogram"])
    assert (choice.name, choice.calibration) == ("none", None)
    assert set(choice.fitted) == {"histogram"}


def test_before_and_after_are_said_for_every_map():
    logits, label = sample(1200)
    choice = choose_map(logits[:600], label[:600], ["temperature", "histogram"])
    rows = compare_maps(choice.fitted, logits[600:], label[600:])
    assert rows["temperature"]["nll_lower_than_before"] is True
    assert rows["temperature"]["accuracy"] == rows["none"]["accuracy"]
    assert rows["temperature"]["ece_top_label_l1"] < 0.5 * rows["none"]["ece_top_label_l1"]
    calm, own = sample(150, scale=1.0)
    worse = compare_maps(choice.fitted, calm, own)
    assert worse["temperature"]["nll_lower_than_before"] is False


@pytest.mark.parametrize("kind", [TemperatureScaling, VectorScaling, MatrixScaling])
def test_linear_maps_fold_into_the_last_layer(kind):
    net, image = Net(), torch.randn(400, 6)
    calibration = kind(K).fit(net(image) * 1.0, torch.randint(K, (400,)))
    plain = folded(net, calibration, net.features(image))
    wrapped = CalibratedBackbone(net, calibration)
    torch.testing.assert_close(plain(image).softmax(1), wrapped(image).softmax(1), atol=1e-5, rtol=0)
    assert plain.state_dict().keys() == net.state_dict().keys()
    assert not torch.equal(plain.classifier.weight, net.classifier.weight)


def test_folding_a_head_in_training_mode_changes_nothing_of_it():
    class Dropping(Net):
        def head(self, features):
            return self.classifier(nn.functional.dropout(features, 0.5, self.training))

    net, image = Dropping(), torch.randn(400, 6)
    calibration = TemperatureScaling(K).fit(torch.randn(400, K), torch.randint(K, (400,)))
    state = torch.get_rng_state()
    assert folded(net, calibration, net.features(image).detach()) is not None
    assert net.training and net.body.training
    assert torch.equal(torch.get_rng_state(), state)


def test_other_maps_are_not_folded_and_travel_with_the_weights():
    net, image, label = Net(), torch.randn(400, 6), torch.randint(K, (400,))
    calibration = MAPS["isotonic"](K).fit(net(image), label)
    assert folded(net, calibration, net.features(image)) is None
    fresh = CalibratedBackbone(Net(), MAPS["isotonic"](K))
    fresh.load_state_dict(CalibratedBackbone(net, calibration).state_dict())
    assert torch.equal(fresh(image), CalibratedBackbone(net, calibration)(image))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maps": ["temprature"]}, "Did you mean temperature"),
        ({"maps": []}, "maps is empty"),
        ({"score": "ece"}, "score is 'ece'"),
        ({"folds": 1}, "folds is 1"),
    ],
)
def test_bad_options_are_one_sentence(options, words):
    with pytest.raises(RectifyError, match=words):
        choose_map(*sample(50), **options)


def test_a_test_sample_in_the_calibration_split_is_refused():
    check_disjoint(torch.arange(10), torch.arange(10, 20))
    with pytest.raises(RectifyError, match="10 of 10 calibration samples are test samples"):
        check_disjoint(torch.arange(10), torch.arange(10))
