"""Mistakes in calibration, its observers and label noise."""

import json

import numpy as np
import torch
from table import FIT, Row

from lightning_rectify.files import sha256

CALIBRATE = ("calibrate", *FIT[1:])
NOISE = ("--data.label_noise", "LabelNoise")

BASE = (*CALIBRATE, "--ckpt_path", "base.ckpt")


def _nan_head(folder):
    checkpoint = torch.load(folder / "base.ckpt", weights_only=True)
    checkpoint["state_dict"]["backbone.classifier.weight"][0] = float("nan")
    torch.save(checkpoint, folder / "base.ckpt")


def _calibrated(folder):
    checkpoint = torch.load(folder / "base.ckpt", weights_only=True)
    torch.save({**checkpoint, "calibration": "temperature"}, folder / "base.ckpt")


def _beside(folder):
    """As a map beside the weights leaves it, whose names fit no plain backbone."""
    state = torch.load(folder / "base.ckpt", weights_only=True)["state_dict"]
    state = {name.replace("backbone.", "backbone.backbone.", 1): value for name, value in state.items()}
    torch.save({"state_dict": state, "calibration": "isotonic"}, folder / "base.ckpt")


def _splits(**changes):
    """A `prepare` that gives the shards other splits."""

    def prepare(folder):
        with np.load(folder / "shards/index.npz") as file:
            parts = dict(file)
        parts |= {name: parts[other] if other else parts[name][:0] for name, other in changes.items()}
        np.savez(folder / "shards/index.npz", **parts)
        manifest = json.loads((folder / "shards/manifest.json").read_text())
        manifest["index_sha256"] = sha256(folder / "shards/index.npz")
        (folder / "shards/manifest.json").write_text(json.dumps(manifest))

    return prepare


def _probabilities(folder):
    """A package of its own name: what one command allowed stays allowed in the process of the tests."""
    (folder / "sure_head.py").write_text(
        "from lightning_rectify.backbones import ResNet\n\n\n"
        "class Sure(ResNet):\n    def head(self, features):\n        return super().head(features).softmax(1)\n"
    )


ROWS = [
    Row("calibrate a diverged network", BASE, ("calibrate", "NaN", "diverged"), _nan_head),
    Row("calibrate what is calibrated", BASE, ("base.ckpt is calibrated already, by temperature",), _calibrated),
    Row("calibrate what has a map beside it", BASE, ("base.ckpt is calibrated already, by isotonic",), _beside),
    Row("calibrate another architecture", (*BASE, "--model.backbone.width", 16), ("another architecture",)),
    Row("calibrate one class", (*BASE, "--model.backbone.classes", 1), ("classes is 1",)),
    Row("calibrate in no fold", (*BASE, "--folds", 1), ("folds is 1", "2 or more")),
    Row("calibrate by no map", (*BASE, "--maps", "[]"), ("maps is empty", "temperature")),
    Row("calibrate probabilities", (*BASE, "--allow", "sure_head", "--model.backbone", "sure_head.Sure",
        "--model.backbone.classes", 10, "--model.backbone.channels", 1, "--model.backbone.depth", 8,
        "--model.backbone.width", 8, "--model.backbone.mean", "[0.3]", "--model.backbone.std", "[0.38]"),
        ("these are probabilities", "give the logits"), _probabilities),
    Row("class that its package has not", (*BASE, "--allow", "mine", "--model.backbone", "mine.Certain"),
        ("model.backbone: mine.Certain cannot be imported",), _probabilities),
    Row("calibrate on no sample", (*BASE, "--data.source", "shards"), ("the val split is empty",),
        _splits(val=None)),
    Row("calibrate on the test split", (*BASE, "--data.source", "shards"), ("are test samples too",),
        _splits(val="test")),
    Row("calibrate shards of weights", (*CALIBRATE, "--ckpt_path", "shards"),
        ("shards is a folder", "make one file of them first: python -c", "consolidate('shards', 'shards.whole.ckpt')")),
    Row("calibrate untrained weights", CALIBRATE, ("calibrate", "untrained", "--ckpt_path")),
    Row("calibrate with an unknown map", (*CALIBRATE, "--ckpt_path", "base.ckpt", "--maps", "[temprature]"),
        ("maps", "Did you mean temperature?")),
    Row("calibrate by ECE", (*CALIBRATE, "--ckpt_path", "base.ckpt", "--score", "ece"),
        ("score is 'ece'", "nll or brier")),
    Row("noise of everything", (*FIT, *NOISE, "--data.label_noise.rate", 1.0), ("rate is 1.0", "[0, 1)")),
    Row("noise of unknown kind", (*FIT, *NOISE, "--data.label_noise.rate", 0.1, "--data.label_noise.to", "near"),
        ("to is 'near'", "fixed or uniform")),
    Row("noise rates of another set", (*FIT, *NOISE, "--data.label_noise.rate", "[0.1, 0.2]"),
        ("2 rates", "10 classes")),
    Row("collapse without a panel", (*FIT, "--trainer.callbacks+={class_path: NeuralCollapse, init_args: {panel: 1}}"),
        ("panel is 1", "at least 2")),
    Row("scores of no epoch", (*FIT, "--trainer.callbacks+={class_path: ExampleScores, init_args: {epochs: 0}}"),
        ("epochs is 0", "at least 1")),
    Row("report with one bin", (*FIT, "--trainer.callbacks+={class_path: CalibrationReport, init_args: {bins: 1}}"),
        ("bins is 1", "at least 2")),
    Row("report beside a run that is not there",
        (*FIT, "--trainer.callbacks=[{class_path: CalibrationReport, init_args: {compare_with: {erm: runs/nowhere}}}]"),
        ("compare_with.erm", "runs/nowhere does not exist", "give a run folder")),
    Row("scores in an unknown format",
        (*FIT, "--trainer.callbacks+={class_path: ExampleScores, init_args: {file: scores.xlsx}}"),
        ("file is 'scores.xlsx'", ".csv or .parquet")),
]  # fmt: skip
