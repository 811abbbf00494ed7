"""The Retriever against brute force, and on one and two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run_ranks
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Retriever
from lightning_rectify.losses import MetricLearning, SmoothAP
from lightning_rectify.metrics import EmbeddingCollector

SCRIPT = Path(__file__).with_name("ranks_retriever.py")


class Flat(nn.Module):
    """The pixels themselves are the embedding."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def features(self, image):
        return image.flatten(1)

    def head(self, features):
        return self.scale * features

    def forward(self, image):
        return self.head(self.features(image))


def rows(classes, each, seed, spread=0.6):
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randn(classes, 1, 1, 6, generator=draw).repeat_interleave(each, 0)
    image = centre + spread * torch.randn(classes * each, 1, 1, 6, generator=draw)
    label = torch.arange(classes).repeat_interleave(each)
    return [
        {"image": image[i : i + 7], "label": label[i : i + 7], "index": torch.arange(len(label))[i : i + 7]}
        for i in range(0, len(label), 7)
    ]


def evaluated(loaders, **options):
    module = Retriever(Flat(), MetricLearning(SmoothAP()), **options)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **quiet)
    nested = [loaders] if isinstance(loaders[0], dict) else loaders
    return trainer.test(module, [DataLoader(batches, batch_size=None) for batches in nested], verbose=False)[0]


def stacked(batches):
    image, label = (torch.cat([batch[key] for batch in batches]) for key in ("image", "label"))
    return F.normalize(image.flatten(1).double(), dim=1).numpy(), label.numpy()


def brute(batches, threshold):
    """Recall@1, mAP@R, FAR and FRR by loops in float64."""
    rows_, label = stacked(batches)
    cosine = rows_ @ rows_.T
    first, average, wrong, missed = [], [], [], []
    for i in range(len(label)):
        others = [j for j in np.argsort(-cosine[i], kind="stable") if j != i]
        same = [label[j] == label[i] for j in others]
        r = sum(same)
        first.append(same[0])
        average.append(sum(sum(same[: k + 1]) / (k + 1) for k in range(r) if same[k]) / r)
        for j in range(i):
            (missed if label[i] == label[j] else wrong).append(cosine[i, j] >= threshold)
    return {
        "test/recall_at_1": np.mean(first),
        "test/map_at_r": np.mean(average),
        "test/far_at_threshold": np.mean(wrong),
        "test/frr_at_threshold": 1 - np.mean(missed),
    }


def test_scores_equal_brute_force_with_the_threshold_of_the_calibration_classes():
    test, calibration = rows(9, 5, 0), rows(12, 4, 1)
    scores = evaluated([test, calibration], calibrate_far=0.1)
    embedding, label = stacked(calibration)
    negative = (embedding @ embedding.T)[label[:, None] != label]
    assert scores["test/threshold"] == pytest.approx(np.quantile(negative, 0.9), abs=5e-3)
    for name, value in brute(test, scores["test/threshold"]).items():
        assert scores[name] == pytest.approx(value, abs=2e-3), name


def test_without_calibration_classes_there_is_no_threshold():
    scores = evaluated(rows(9, 5, 0))
    assert "test/threshold" not in scores
    assert {
        "test/recall_at_1",
        "test/map_at_r",
        "test/r_precision",
        "test/opis",
        "test/epsilon_opis",
        "test/eer",
    } <= set(scores)


def test_repeated_samples_count_once():
    batches = rows(9, 5, 0)
    assert evaluated([*batches, batches[0]]) == evaluated(batches)


def test_queries_of_a_batch_ask_the_others():
    batches = rows(6, 5, 0)
    for batch in batches:
        batch["query"] = batch["index"] % 5 == 0
    scores = evaluated(batches)
    embedding, label = stacked(batches)
    asks = np.arange(30) % 5 == 0
    nearest = (embedding[asks] @ embedding[~asks].T).argmax(1)
    assert scores["test/recall_at_1"] == pytest.approx((label[~asks][nearest] == label[asks]).mean())


def test_a_share_of_each_class_is_the_gallery():
    collector = EmbeddingCollector()
    for batch in rows(6, 5, 0):
        collector.add(F.normalize(batch["image"].flatten(1), dim=1), batch["label"], batch["index"])
    evaluation = collector.evaluation(gallery_share=0.4)
    assert torch.bincount(evaluation.labels[~evaluation.query]).tolist() == [2] * 6
    assert 0 < float(evaluation.retrieval["recall_at_1"]) <= 1


def test_bad_input():
    for options, said in (
        ({"calibrate_far": 5}, "model.calibrate_far is 5"),
        ({"gallery_share": 1.5}, "model.gallery_share is 1.5"),
        ({"recall_at": ()}, "model.recall_at"),
        ({"far": (0.1, 0.01)}, "FAR range"),
    ):
        with pytest.raises(RectifyError) as caught:
            Retriever(Flat(), MetricLearning(SmoothAP()), **options)
        assert said in str(caught.value)
    missing = rows(6, 5, 0)
    for batch in missing:
        batch["query"] = batch["label"] == 2
    with pytest.raises(RectifyError, match="1 query classes are missing in the gallery, 2 first"):
        evaluated(missing)
    with pytest.raises(RectifyError, match="one class"):
        evaluated(rows(1, 9, 0))
    with pytest.raises(RectifyError, match="positive"):
        evaluated(rows(9, 1, 0))


def test_two_processes_evaluate_and_sample_as_one():
    one = run_ranks(SCRIPT, world_size=1)[0]
    two = run_ranks(SCRIPT, world_size=2)
    for other in two:
        for name, value in one["scores"].items():
            assert other["scores"][name] == pytest.approx(value, abs=1e-6), name
    batches = [batch for pair in zip(*(rank["batches"] for rank in two), strict=True) for batch in pair]
    assert batches == one["batches"][: len(batches)]
    assert not any(set(a) & set(b) for a, b in zip(*(rank["batches"][:2] for rank in two), strict=True))
