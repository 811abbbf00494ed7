"""One process, two and three, with batches of different size: the same loss and the same gradient, for every loss."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_ranks
from torch import nn

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import (
    Context,
    LibraryLoss,
    MetricLearning,
    ProxyAnchor,
    SmoothAP,
    ThresholdConsistentMargin,
)

CASES = (
    "tcm",
    "masked",
    "references",
    "shared references",
    "memory",
    "proxy anchor",
    "smooth ap",
    "recall",
    "adaface",
    "library",
    "library proxies",
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of every rank, by number of ranks; one rank runs in this process, which has paid for the imports."""
    script = Path(__file__).with_name("ranks_metric_learning.py")
    alone = tmp_path_factory.mktemp("alone") / "0.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK_REPORT", str(alone))
        patch.setenv("WORLD_SIZE", "1")
        runpy.run_path(str(script))
    return {1: [json.loads(alone.read_text())], **{world: run_ranks(script, world_size=world) for world in (2, 3)}}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_with_one_process(reports, case, world):
    (alone,) = reports[1]
    # AdaFace keeps its statistics in float32
    tolerance = 1e-5 if case == "adaface" else 1e-9
    for report in reports[world]:
        np.testing.assert_allclose(report[case]["value"], alone[case]["value"], rtol=tolerance)
        assert len(report[case]["gradients"]) == len(alone[case]["gradients"])
        for got, wanted in zip(report[case]["gradients"], alone[case]["gradients"], strict=True):
            assert np.abs(wanted).max() > 1e-6, "a gradient of zero proves nothing"
            np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("world", [2, 3])
def test_counts_and_memory_are_those_of_all_ranks(reports, world):
    (alone,) = reports[1]
    for report in reports[world]:
        assert report["terms"] == alone["terms"]
        np.testing.assert_allclose(report["remembered"], alone["remembered"], rtol=1e-6)


class Head(nn.Module):
    classes = 6

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, image):
        return 10 * self.linear(image)  # far from length 1


def batch(labels):
    return {"image": torch.randn(len(labels), 4), "label": torch.tensor(labels)}


def test_the_loss_is_the_sum_of_named_terms_on_unit_vectors():
    tcm = ThresholdConsistentMargin()
    objective = MetricLearning(SmoothAP(), [tcm, ThresholdConsistentMargin(0.8)])
    head, data = Head(), batch([0, 0, 1, 1, 2, 2])
    step = objective(head, data, Context())
    unit = nn.functional.normalize(head(data["image"]), dim=1)
    assert torch.allclose(step.terms["tcm"], tcm(unit, data["label"]))
    assert torch.allclose(step.loss, step.terms["smooth_ap"] + step.terms["tcm"] + step.terms["tcm2"])
    assert {"tcm_positive_active", "tcm_negative_rate", "tcm2_positive_rate"} <= set(step.terms)
    assert not any(value.requires_grad for value in step.terms.values())


def test_proxies_take_the_width_of_the_head_and_are_trained():
    objective = MetricLearning(ProxyAnchor(3))
    assert not MetricLearning(SmoothAP()).own_parameters
    objective.setup(Head())
    assert objective.own_parameters
    assert objective.base.proxies.shape == (3, 6)
    objective(Head(), batch([0, 0, 1, 2]), Context()).loss.backward()
    assert objective.base.stored.grad.abs().sum() > 0


def test_a_library_loss_gives_what_the_library_gives():
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    ours = LibraryLoss("MultiSimilarityLoss", {"alpha": 3}, "MultiSimilarityMiner", {"epsilon": 0.2})
    data = batch([0, 0, 1, 1, 2, 2])
    head = Head()
    unit = nn.functional.normalize(head(data["image"]), dim=1)
    chosen = MultiSimilarityMiner(epsilon=0.2)(unit, data["label"])
    wanted = MultiSimilarityLoss(alpha=3)(unit, data["label"], chosen)
    assert torch.allclose(MetricLearning(ours)(head, data, Context()).loss, wanted)
    assert torch.allclose(MetricLearning(MultiSimilarityLoss(alpha=3), [])(head, data, Context()).loss,
                          MultiSimilarityLoss(alpha=3)(unit, data["label"]))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LibraryLoss("MultiSimilarityLos"), "Did you mean MultiSimilarityLoss"),
        (lambda: LibraryLoss("TripletMarginLoss", {"margine": 1}), "margine"),
        (lambda: LibraryLoss("TripletMarginLoss", miner="Nothing"), "miners has no 'Nothing'"),
        (lambda: MetricLearning(SmoothAP())(Head(), batch([3, 3, 3]), Context()), "one class only"),
        (lambda: MetricLearning(SmoothAP())(Head(), batch([0, 1, 2]), Context()), "no positive pair"),
        (lambda: MetricLearning(SmoothAP())(Head(), batch([0.0, 1.0, 1.0]), Context()), "labels are torch.float32"),
        (lambda: MetricLearning(ProxyAnchor(3)).setup(nn.Identity()), "set dimension"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(RectifyError, match=said):
        make()
