"""Mistakes in a request to forget and in what carries it out."""

import json
import shutil

import numpy as np
import torch
from table import FIT, Row, write
from torch import nn

from lightning_rectify.unlearning import saliency_masks
from lightning_rectify.unlearning.weight_mask import architecture

COMMON = ("--model.backbone.width", 8, "--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false",
          "--trainer.enable_model_summary", "false")  # fmt: skip
RECIPE = ("unlearn", "-c", "recipe/salun_digits", *COMMON)
UNLEARN = (*RECIPE, "--init_from", "base.ckpt")
FORGET = (*UNLEARN, "--data.forget", "class:3")
RETRAIN = (*FORGET, "--retrain", "true", "--retrain_config", "o.yaml")
EDIT = ("--model.method", "SSD", "--trainer.callbacks", "[]")
STARTED = "runs/base/checkpoints/best.ckpt"


def _everything(folder):
    with np.load(folder / "shards" / "index.npz") as index:
        (folder / "all.csv").write_text("\n".join(index["key"][index["train"]]))


def _no_weights(folder):
    torch.save({"state_dict": {}, "epoch": 3}, folder / "empty.ckpt")


def _other_mask(folder):
    other = nn.Linear(4, 3)
    scores = {name: weight.detach().abs() for name, weight in other.named_parameters()}
    (mask,) = saliency_masks(scores, [0.5], architecture=architecture(other))
    mask.save(folder / "m.safetensors")
    _callbacks("d.yaml", mask="m.safetensors")(folder)


def _callbacks(name, **options):
    callback = {"class_path": "WeightSaliency", "init_args": options}
    return write(name, json.dumps({"trainer": {"callbacks": [callback]}}))


def _run(config):
    """A run folder `runs/base` with the checkpoint."""

    def prepare(folder):
        (folder / "runs/base/checkpoints").mkdir(parents=True)
        shutil.copy(folder / "base.ckpt", folder / STARTED)
        (folder / "runs/base/run.json").write_text("{}")
        (folder / "runs/base/config.yaml").write_text(config)

    return prepare


def _unlearned(note):
    def prepare(folder):
        checkpoint = torch.load(folder / "base.ckpt", weights_only=True)
        torch.save({**checkpoint, "unlearned": note}, folder / "u.ckpt")

    return prepare


def _config(data=None, model=None, **more):
    parts = {"data": {"source": "digits", **(data or {})}, "model": model or {}, "trainer": {}}
    return write("o.yaml", json.dumps({**parts, **more}))


ROWS = [
    Row("unlearning without a model", (*RECIPE, "--data.forget", "class:3"), ("--init_from",)),
    Row("unlearning without a request", UNLEARN, ("data.forget is not set", "requests.csv")),
    Row("empty request", (*UNLEARN, "--data.forget", "none.csv"), ("none.csv", "holds no key"),
        write("none.csv", "key\n")),
    Row("request for everything", (*UNLEARN, "--data.forget", "all.csv"), ("all.csv", "some to retain"), _everything),
    Row("unknown class to forget", (*UNLEARN, "--data.forget", "class:3,12"), ("class:12 is unknown", "below 10")),
    Row("unknown keys", (*UNLEARN, "--data.forget", "keys.csv"), ("2 of 2 keys", "no/1, no/2", "nothing was forgotten"),
        write("keys.csv", "key\nno/1\nno/2\n")),
    Row("original without weights", (*RECIPE, "--init_from", "empty.ckpt", "--data.forget", "class:3"),
        ("holds no weights",), _no_weights),
    Row("density of 0", (*FORGET, "-c", "d.yaml"), ("density",), _callbacks("d.yaml", density=0)),
    Row("density above 1", (*FORGET, "-c", "d.yaml"), ("density",), _callbacks("d.yaml", density=1.5)),
    Row("decay beside a mask", (*FORGET, "--model.optimizer.weight_decay", "5e-4"),
        ("weight_decay 0.0005", "to the mask")),
    Row("method that does not forget", (*FORGET, "--model.objective", "FMix"), ("FMix", "does not unlearn")),
    Row("no method", (*FORGET, "--model.objective", "null"), ("model.method is not set", "RandomLabel")),
    Row("forgetting in fit", (*FIT, "--data.forget", "class:3"), ("FMix does not unlearn", "data.schedule")),
    Row("method without a request in fit", (*FIT, "-c", "objective/random_label"), ("data.forget is not set",)),
    Row("schedule without forget samples", (*FORGET, "--data.schedule", "retain"), ("data.schedule is retain",)),
    Row("retraining a checkpoint without its run", (*FORGET, "--retrain", "true"), ("--retrain", "--retrain_config")),
    Row("retraining from weights", RETRAIN, ("o.yaml starts from a.ckpt", "--retrain_config"),
        _config(init_from="a.ckpt")),
    Row("retraining an unlearning", RETRAIN, ("o.yaml is the config of an unlearning", "--retrain_config"),
        _config(model={"objective": "RandomLabel"})),
    Row("retraining a run that unlearned", (*FORGET, "--retrain", "true", "--init_from", STARTED),
        ("is the config of an unlearning",),
        _run("{module: Unlearner, data: {}, model: {}, trainer: {}}")),
    Row("imbalance of the original alone", RETRAIN, ("data.imbalance is None here and LongTail in o.yaml",),
        _config({"imbalance": "LongTail"})),
    Row("another noise than the original's", (*RETRAIN, "--data.label_noise", "LabelNoise",
        "--data.label_noise.rate", 0.1), ("data.label_noise.rate is 0.1 here and 0.2 in o.yaml",),
        _config({"label_noise": {"class_path": "LabelNoise", "init_args": {"rate": 0.2}}})),
    Row("resuming an edit", (*FORGET, *EDIT, "--ckpt_path", "base.ckpt"), ("--ckpt_path: SSD", "nothing to resume")),
    Row("resuming in the original's run", (*FORGET, *EDIT, "--init_from", STARTED, "--ckpt_path", STARTED),
        ("--ckpt_path", "the run of the original"), _run("{}")),
    Row("resuming in the run of a training", (*FORGET, "--ckpt_path", STARTED),
        ("--ckpt_path", "the run of another command"), _run("{}")),
    Row("second request without the first", (*FORGET, "--init_from", "u.ckpt"),
        ("u.ckpt was made to forget 12 samples", "both requests"), _unlearned({"samples": 12})),
    Row("second request on other data", (*FORGET, "--init_from", "u.ckpt"), ("data.source", "other data"),
        _unlearned({"index": torch.arange(3), "manifest_sha256": "0"})),
    Row("density above 1 to try", (*FORGET, "--tune_density", "[0.5, 2]"), ("--tune_density", "density")),
    Row("mask of another architecture", (*FORGET, "-c", "d.yaml"), ("m.safetensors", "architecture"),
        _other_mask),
]  # fmt: skip
