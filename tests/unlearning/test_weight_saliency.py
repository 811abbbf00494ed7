"""Scores against gradients of single samples in float64, and what scoring leaves behind."""

import copy

import pytest
import torch
from foreign import IMAGES, LABELS
from torch import nn
from torch.nn import functional as F

from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import saliency_masks, saliency_scores


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )
    net(torch.rand(16, 1, 8, 8))  # statistics that are not those of a fresh layer
    return net


def batches(samples=23, size=5, tuples=False):
    for rows in torch.arange(samples).split(size):
        batch = {"image": IMAGES[rows], "label": LABELS[rows], "index": rows}
        yield (batch["image"], batch["label"]) if tuples else batch


def by_hand(net, samples=23):
    """Sum of the gradients of each sample's cross-entropy, one by one, in float64 and eval mode."""
    net = copy.deepcopy(net).double().eval()
    for image, label in zip(IMAGES[:samples].double(), LABELS[:samples], strict=True):
        F.cross_entropy(net(image[None]), label[None]).backward()
    return {name: weight.grad for name, weight in net.named_parameters()}


def close(scores, expected):
    assert list(scores) == list(expected)
    for name, score in scores.items():
        assert score.dtype == torch.float32
        torch.testing.assert_close(score.double(), expected[name].abs(), rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("size", [5, 23, 1])
def test_scores_are_the_magnitude_of_the_sum_whatever_the_batches(size):
    net = network()
    close(saliency_scores(net, batches(size=size)), by_hand(net))


def test_mean_is_per_sample_and_padding_counts_nothing():
    net = network()
    padded = [*batches(), next(iter(batches()))]
    expected = {name: gradient / 23 for name, gradient in by_hand(net).items()}
    close(saliency_scores(net, padded, reduction="mean"), expected)


def test_magnitudes_of_batches():
    """What some published code sums instead: another score."""
    net = network()
    expected = None
    for rows in torch.arange(23).split(5):
        twin = copy.deepcopy(net).double().eval()
        F.cross_entropy(twin(IMAGES[rows].double()), LABELS[rows], reduction="sum").backward()
        part = {name: weight.grad.abs() for name, weight in twin.named_parameters()}
        expected = part if expected is None else {name: expected[name] + part[name] for name in part}
    close(saliency_scores(net, batches(), abs_order="before"), expected)


def test_the_largest_gradients_are_kept():
    """A linear layer whose weights have gradients known by construction: an inverted mask fails here."""
    net = nn.Linear(4, 1, bias=False)
    data = [(torch.tensor([[1.0, -4.0, 2.0, -3.0]]), torch.zeros(1, dtype=torch.int64))]
    scores = saliency_scores(net, data, loss=lambda output, label: -output[:, 0])
    assert scores["weight"].tolist() == [[1, 4, 2, 3]]
    (mask,) = saliency_masks(scores, [0.5])
    assert mask.bits("weight").tolist() == [[False, True, False, True]]


def test_scoring_leaves_no_trace():
    net = ResNet(10, channels=1, width=8, norm="batch")
    net.layer1.eval() if hasattr(net, "layer1") else next(net.children()).eval()
    frozen = next(net.parameters()).requires_grad_(False)
    first = next(weight for weight in net.parameters() if weight.requires_grad)
    first.grad = torch.full_like(first, 7.0)
    state = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    random = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(list(zip(IMAGES[:9], LABELS[:9], strict=True)), 4)
    scores = saliency_scores(net, loader)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(first.grad, torch.full_like(first, 7.0))
    assert all(weight.grad is None for weight in net.parameters() if weight is not first)
    assert not frozen.requires_grad and first.requires_grad
    assert len(scores) == sum(weight.requires_grad for weight in net.parameters())
    assert all(not (weight._post_accumulate_grad_hooks or {}) for weight in net.parameters())


def test_the_trace_is_gone_after_an_error_too():
    net = network()
    with pytest.raises(RectifyError, match="this one is a dict"):
        saliency_scores(net, [*batches(), {"picture": 1}])
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters()) and net.training


def test_parameters_in_bf16_collect_in_fp32():
    """A thousand equal gradients: a bf16 sum stops growing at 256."""
    net = nn.Linear(1, 1, bias=False).bfloat16()
    data = [(torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64))] * 1000
    scores = saliency_scores(net, data, loss=lambda output, label: output[:, 0])
    assert scores["weight"].item() == 1000 and scores["weight"].dtype == torch.float32


def test_a_parameter_without_part_in_the_loss_scores_zero():
    net = network()
    net.register_parameter("idle", nn.Parameter(torch.ones(3)))
    assert saliency_scores(net, batches())["idle"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("include", "names"),
    [
        (["weights"], {"0.weight", "5.weight"}),
        (["bias"], {"0.bias", "5.bias"}),
        (["norm", "weights"], {"0.weight", "1.weight", "1.bias", "5.weight"}),
        ("norm", {"1.weight", "1.bias"}),
    ],
)
def test_kinds_of_parameters(include, names):
    assert set(saliency_scores(network(), batches(tuples=True), include=include)) == names


def test_names_are_free_of_wrappers():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, image):
            return self.module(image)

    net = network()
    wrapped = Wrapper(torch.compile(net, backend="eager"))
    assert "module._orig_mod.0.weight" in dict(wrapped.named_parameters())
    plain, other = saliency_scores(net, batches()), saliency_scores(wrapped, batches())
    assert list(plain) == list(other) and all(torch.equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([], {}, "the forget set is empty"),
        (None, {"include": ["layers"]}, "include is"),
        (None, {"reduction": "max"}, "reduction is max"),
        (None, {"abs_order": "never"}, "abs_order never"),
        ([1], {}, "this one is a int"),
    ],
)
def test_bad_values_are_named(data, options, words):
    with pytest.raises(RectifyError, match=words):
        saliency_scores(network(), batches() if data is None else data, **options)


def test_nothing_to_score_is_named():
    with pytest.raises(RectifyError, match="no parameter of Sequential is among weights, bias, norm and requires"):
        saliency_scores(network().requires_grad_(False), batches())


def test_weights_that_are_not_there_are_named():
    with pytest.raises(RectifyError, match=r"0.weight is split over ranks or not materialised"):
        saliency_scores(network().to("meta"), batches())
