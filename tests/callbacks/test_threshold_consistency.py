"""ThresholdConsistency: what it logs against brute force, what it draws, in a Retriever and in another's module."""

import csv

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from lightning_rectify.backbones import PlainNet
from lightning_rectify.callbacks import ThresholdConsistency, choose_worst_queries
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Retriever
from lightning_rectify.losses import MetricLearning, SmoothAP
from lightning_rectify.metrics import EmbeddingCollector, opis_noise_floor

OPTIONS = {"max_classes": 12, "min_fonts": 12, "size": 16}


class Foreign(pl.LightningModule):
    """Somebody's module, whose steps return nothing."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 8))

    def forward(self, image):
        return self.net(image)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def validation_step(self, batch, batch_idx):
        pass


def trainer(folder, *callbacks):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks), default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.fixture
def data():
    return ShardDataModule("glyphs", batch_size=32, build={"options": OPTIONS})


def rows_of(module, loader):
    batches = list(loader)
    with torch.no_grad():
        rows = F.normalize(module(torch.cat([batch["image"] for batch in batches]).float() / 255), dim=1)
    return rows.double(), torch.cat([batch["label"] for batch in batches])


@pytest.mark.parametrize("foreign", [False, True])
def test_rates_of_every_class_equal_loops(tmp_path, data, foreign):
    torch.manual_seed(0)
    module = Foreign() if foreign else Retriever(PlainNet(16, size=16, width=4), MetricLearning(SmoothAP()))
    run = trainer(tmp_path, ThresholdConsistency(queries=3))
    scores = run.test(module, data, verbose=False)[0]
    rows, label = rows_of(module.eval(), data.test_dataloader()[0])
    with (tmp_path / "tables" / "test_class_rates.csv").open() as file:
        table = {int(row["label"]): row for row in csv.DictReader(file)}
    assert set(table) == set(label.tolist())
    calibration, names = rows_of(module, data.test_dataloader()[1])
    threshold = torch.quantile((calibration @ calibration.T)[names[:, None] != names], 0.95)
    cosine, same = rows @ rows.T, label[:, None] == label
    for each in label.unique().tolist():
        own = label == each
        inside = cosine[own][:, own].fill_diagonal_(2)
        accepted = (cosine[own][:, ~own] >= threshold).double().mean()
        missed = (inside < threshold).sum() / (len(inside) * (len(inside) - 1))
        assert float(table[each]["far"]) == pytest.approx(float(accepted), abs=0.01)
        assert float(table[each]["frr"]) == pytest.approx(float(missed), abs=0.02)
        assert int(table[each]["images"]) == int(own.sum())
    assert scores["test/worst_class_far"] >= (cosine >= threshold)[~same].double().mean() - 0.01
    assert ("test/opis" in scores) and ("test/threshold" in scores) == (not foreign)
    collector = EmbeddingCollector()
    collector.add(rows.float(), label, torch.arange(len(label)))
    floor = opis_noise_floor(collector.evaluation().histogram)
    assert scores["test/opis_noise_floor"] == pytest.approx(float(floor.mean()), rel=1e-4)
    drawn = {path.parent.name for path in tmp_path.glob("figures/**/*.png")}
    assert drawn == {"test_det", "test_class_utility", "test_class_rates", "test_worst_queries"}


@pytest.mark.parametrize("foreign", [False, True])
def test_what_it_says_it_will_log_is_what_it_logs(tmp_path, data, foreign):
    module = Foreign() if foreign else Retriever(PlainNet(16, size=16, width=4), MetricLearning(SmoothAP()))
    logged = []
    for callbacks in ([], [own := ThresholdConsistency(figure_every_n_epochs=0)]):
        run = trainer(tmp_path, *callbacks)
        run.validate(module, data, verbose=False)
        logged.append(set(run.callback_metrics))
    assert set(own.later_keys()) == logged[1] - logged[0]


def test_a_checkpoint_below_the_recall_floor_loses_to_any_above(tmp_path, data):
    module = Retriever(PlainNet(16, size=16, width=4), MetricLearning(SmoothAP()))
    values = {}
    for floor in (0.0, 0.999):
        scores = trainer(tmp_path, ThresholdConsistency(floor, figure_every_n_epochs=0)).validate(
            module, data, verbose=False
        )
        values[floor] = scores[0]
    assert values[0.0]["val/opis_at_recall"] == values[0.0]["val/opis"] <= 0.25
    missing = 0.999 - values[0.0]["val/recall_at_1"]
    assert values[0.999]["val/opis_at_recall"] == pytest.approx(1 + missing)
    assert not list(tmp_path.glob("figures/**/*.png"))


def test_worst_queries_are_the_surest_mistakes_one_a_class():
    collector = EmbeddingCollector()
    angle = torch.tensor([0.0, 0.01, 1.0, 1.02, 0.005, 2.0, 1.2, 3.0, 3.01])
    label = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 4])  # row 4 lies between both of class 0; 6 is alone in its class
    collector.add(torch.stack((angle.cos(), angle.sin()), 1), label, torch.arange(9))
    worst = choose_worst_queries(collector.evaluation(), 4, k=1)
    assert set(worst.query[:2].tolist()) in ({0, 4}, {1, 4})  # rows 0, 1 and 4 find each other, surely and wrongly
    assert sorted(label[worst.query].tolist()) == [0, 1, 2, 4]
    assert worst.relevant[:, 0].tolist() == [False, False, True, True]


def test_bad_input():
    for options, said in (
        ({"recall_floor": 80}, "recall_floor is 80"),
        ({"queries": -1}, "queries -1"),
        ({"calibrate_far": 0.0}, "calibrate_far is 0.0"),
    ):
        with pytest.raises(RectifyError) as caught:
            ThresholdConsistency(**options)
        assert said in str(caught.value)
