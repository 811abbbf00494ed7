"""Calibration of a network, from its splits to a checkpoint that tests as it was reported."""

import json

import pytest
import torch
import yaml
from foreign import Foreign
from pytorch_lightning import Trainer

from lightning_rectify.backbones import ResNet
from lightning_rectify.calibration import CalibratedBackbone, IsotonicCalibration
from lightning_rectify.callbacks import CalibrationReport
from lightning_rectify.commands.calibrate import calibrate, split_outputs
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier


@pytest.fixture(scope="module")
def data(data_folder):
    data = ShardDataModule("digits", batch_size=64)
    data.prepare_data()
    data.setup()
    return data


def classifier(scale=8.0):
    """A net whose features are random and whose head was fitted a little, then made far too sure."""
    torch.manual_seed(0)
    net = Classifier(ResNet(10, channels=1, depth=8, width=8))
    last = [layer for layer in net.backbone.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= scale
    return net


def scores_of(net, data, path, folder, **options):
    report = CalibrationReport(figure_every_n_epochs=0)
    run = Trainer(
        accelerator="cpu", logger=False, callbacks=[report], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    return run.test(net, data, ckpt_path=path, weights_only=True, verbose=False)[0]


def test_a_linear_map_goes_into_the_head_and_tests_as_reported(tmp_path, data):
    net = classifier()
    result = calibrate(net, data, tmp_path, ["temperature", "matrix"])
    assert result == json.loads((tmp_path / "calibration.json").read_text())
    assert result["chosen"] in ("temperature", "matrix")
    assert result["folded"]
    assert result["after"]["nll"] < result["before"]["nll"] - 0.1
    scores = scores_of(classifier(), data, result["checkpoint"], tmp_path)
    for name in ("nll", "brier", "ece_top_label_l1"):
        assert scores[f"test/{name}"] == pytest.approx(result["after"][name], abs=2e-4)
    assert {path.name for path in (tmp_path / "figures" / "calibration").iterdir()} == {"before.png", "after.png"}
    assert not (tmp_path / "calibrated.yaml").exists()


def test_another_map_is_saved_beside_the_network(tmp_path, data):
    config = {"class_path": "ResNet", "init_args": {"classes": 10, "channels": 1, "depth": 8, "width": 8}}
    net = classifier()
    result = calibrate(net, data, tmp_path, ["isotonic"], "brier", backbone_config=config)
    assert not result["folded"]
    written = yaml.safe_load((tmp_path / "calibrated.yaml").read_text())["model"]["backbone"]
    assert written["class_path"] == "CalibratedBackbone"
    assert written["init_args"]["calibration"]["class_path"] == "IsotonicCalibration"
    fresh = classifier()
    fresh.backbone = CalibratedBackbone(fresh.backbone, IsotonicCalibration(10))
    scores = scores_of(fresh, data, result["checkpoint"], tmp_path)
    assert scores["test/brier"] == pytest.approx(result["after"]["brier"], abs=1e-4)


def test_mixed_precision_is_that_of_a_test(tmp_path, data):
    """The map is fitted on the logits that will meet it, and what is reported is what a test then says."""
    bf16 = {"precision": lambda: torch.autocast("cpu", torch.bfloat16)}
    result = calibrate(classifier(), data, tmp_path, ["matrix"], **bf16)
    assert result["calibration_errors"] > 0
    scores = scores_of(classifier(), data, result["checkpoint"], tmp_path, precision="bf16-mixed")
    assert scores["test/nll"] == pytest.approx(result["after"]["nll"], rel=1e-6)
    single = scores_of(classifier(), data, result["checkpoint"], tmp_path)
    assert scores["test/nll"] != pytest.approx(single["test/nll"], rel=1e-5)


def test_the_splits_are_whole_sorted_and_apart(data):
    val, test = (split_outputs(classifier().backbone, data, split, "cpu") for split in ("val", "test"))
    assert val["index"].tolist() == sorted(data.ids["val"].tolist())
    assert not set(val["index"].tolist()) & set(test["index"].tolist())


class _Same:
    """A data module that evaluates on one split twice, or on none."""

    def __init__(self, data, empty):
        self.data, self.empty = data, empty

    def __getattr__(self, name):
        return getattr(self.data, name)

    def test_dataloader(self):
        return self.data.val_dataloader()

    def val_dataloader(self):
        return [] if self.empty else self.data.val_dataloader()


@pytest.mark.parametrize(("empty", "words"), [(False, "are test samples too"), (True, "the val split is empty")])
def test_bad_splits_are_one_sentence(tmp_path, data, empty, words):
    with pytest.raises(RectifyError, match=words):
        calibrate(classifier(), _Same(data, empty), tmp_path, ["temperature"])


def test_a_module_without_a_backbone_is_one_sentence(tmp_path, data):
    with pytest.raises(RectifyError, match="Foreign has no backbone with features"):
        calibrate(Foreign(), data, tmp_path, ["temperature"])


def test_the_command_calibrates_a_run(command):
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
    short = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 4, "--final_test", "false", "--name", "base")
    assert command("fit", "-c", "data/digits", "--trainer.accelerator", "cpu", *quiet, *short).code == 0
    run = command.folder / "runs/base"
    own = ("-c", run / "config.yaml")
    mixed = ("--trainer.precision", "bf16-mixed")
    ended = command("calibrate", *own, *mixed, "--ckpt_path", run / "checkpoints/best.ckpt", "--maps", "[isotonic]")
    assert ended.code == 0, ended.error
    (report,) = command.folder.glob("runs/**/calibration.json")
    result = json.loads(report.read_text())
    assert result["chosen"] == "isotonic"
    more = ("-c", report.with_name("calibrated.yaml"), "--ckpt_path", result["checkpoint"])
    ended = command("test", *own, *more, *mixed)
    assert ended.code == 0, ended.error
    assert f"{result['after']['nll']:.4f}" in ended.out
