"""What is counted and what comes out, for every unlearning objective that ships, in one process on the digits."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, Trainer
from torch import nn

from lightning_rectify import losses
from lightning_rectify.backbones import PlainNet
from lightning_rectify.callbacks import EMA
from lightning_rectify.commands.model_outputs import model_outputs
from lightning_rectify.commands.tuning import KEPT, SPLITS, Tuning
from lightning_rectify.commands.unlearning_callbacks import ApplyEdit, UnlearnedWeights, UnlearningCost
from lightning_rectify.datamodules import ShardDataModule, build_shards
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Unlearner
from lightning_rectify.losses import FineTune, RandomLabel
from lightning_rectify.losses.objective import Objective
from lightning_rectify.unlearning import SSD, FisherNoise, TaskVector, proxy_gap

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
CONFIGS = {path.stem: yaml.safe_load(path.read_text())["model"]["objective"]
           for path in sorted((Path(__file__).parents[2] / "configs" / "objective").glob("*.yaml"))}  # fmt: skip
UNLEARNING = {n: c for n, c in CONFIGS.items() if getattr(losses, c["class_path"]).needs_retain}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
SHORT = {"accelerator": "cpu", "max_epochs": 3, "limit_train_batches": 5}
SETTINGS = {**dict.fromkeys(KEPT), "devices": 1, "num_nodes": 1, "strategy": "auto", "max_steps": -1,
            "accumulate_grad_batches": 1, **SHORT}  # fmt: skip


def digits(source="digits", **options):
    """37 samples to forget, which are three batches."""
    return ShardDataModule(source, batch_size=16, eval_batch_size=512, forget="fraction:0.03", **options)


def network():
    torch.manual_seed(0)
    return PlainNet(10, size=8, width=8, mean=[0.3], std=[0.38])


def adam(parameters):
    return torch.optim.Adam(parameters, 0.01)


class Witness(Callback):
    """Adds up the samples of those losses that the objective computed, and keeps the last weights."""

    def __init__(self):
        self.forget = self.retain = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if "image" in batch:
            marked = batch.get("forget", torch.zeros(len(batch["image"]), dtype=torch.bool))
            sizes = {"forget": int(marked.sum()), "retain": int((~marked).sum())}
        else:
            sizes = {name: len(part["image"]) for name, part in batch.items() if part is not None}
        for name, size in sizes.items():
            if f"train/{name}_loss" in pl_module.last_terms:
                setattr(self, name, getattr(self, name) + size)
        self.last = copy.deepcopy(pl_module.backbone.state_dict())


def fit(objective, tmp_path, *callbacks):
    module, cost = Unlearner(network(), objective, adam), UnlearningCost()
    weights, witness = UnlearnedWeights(), Witness()
    trainer = Trainer(
        **SHORT, **QUIET, limit_val_batches=0, default_root_dir=tmp_path, callbacks=[cost, *callbacks, witness, weights]
    )
    trainer.fit(module, datamodule=digits())
    return module, cost.report(), weights.state, witness


@pytest.mark.parametrize("name", UNLEARNING)
def test_a_sample_counts_when_it_has_a_gradient(name, tmp_path):
    getattr(losses, UNLEARNING[name]["class_path"])  # imported, so that the parser knows its short name
    parser = ArgumentParser()
    parser.add_argument("--objective", type=Objective)
    objective = parser.instantiate_classes(parser.parse_object({"objective": UNLEARNING[name]})).objective
    module, cost, state, witness = fit(objective, tmp_path)
    assert (cost["forget_gradients"], cost["retain_gradients"]) == (witness.forget, witness.retain)
    assert witness.forget + witness.retain > 0
    network().load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in module.backbone.state_dict().items())
    exact = {"fine_tune": (0, 15 * 16), "scrub": (2 * 37, 3 * 32), "sfron": (3 * 16, 15 * 16)}
    if name in exact:  # Scrub ascends in two epochs of three, SFR-on in the steps 0, 5 and 10
        assert (witness.forget, witness.retain) == exact[name]


@pytest.mark.parametrize(
    ("edit", "forget", "retain"),
    [(SSD(), 1, 1), (TaskVector(epochs=2), 2, 0), (FisherNoise(per_sample=False), 0, 1)],
    ids=["ssd", "task_vector", "fisher_noise"],
)
def test_an_edit_counts_the_samples_it_reads(edit, forget, retain, tmp_path):
    cost, weights, data = UnlearningCost(), UnlearnedWeights(), digits()
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[ApplyEdit(cost, weights)], **QUIET)
    trainer.validate(Unlearner(network(), edit, adam), datamodule=data, verbose=False)
    assert cost.report()["forget_gradients"] == forget * len(data.forget_index)
    assert cost.report()["retain_gradients"] == retain * len(data.retain_index)


def test_the_averaged_weights_come_out_and_are_what_is_tuned(tmp_path):
    module, _, state, witness = fit(RandomLabel(), tmp_path, EMA(0.9))
    assert all(torch.equal(value, state[key]) for key, value in module.backbone.state_dict().items())
    assert any(not torch.equal(value, state[key]) for key, value in witness.last.items())

    data, original = digits(), network()
    callbacks = [EMA(0.9)]
    tuning = Tuning([0.01], None, SETTINGS, callbacks)
    tuning.run(Unlearner(network(), RandomLabel(), adam), data, callbacks, original, tmp_path / "tuning.json")
    found = json.loads((tmp_path / "tuning.json").read_text())["chosen"]["proxy_gap"]
    start = model_outputs(original, data, torch.device("cpu"), SPLITS)
    gaps = []
    for weights in (state, witness.last):
        tried = network()
        tried.load_state_dict(weights)
        gaps.append(proxy_gap(start, model_outputs(tried, data, torch.device("cpu"), SPLITS)))
    assert found == gaps[0] != gaps[1]


def test_tuning_without_validation_samples_is_refused_before_a_trial(tmp_path):
    build_shards(source="digits", out=tmp_path / "shards", name="digits", val=0.0)
    module = Unlearner(network(), FineTune(), adam)
    tuning = Tuning([0.01], None, SETTINGS, [])
    with pytest.raises(RectifyError, match="judge on validation samples, and the data have none"):
        tuning.run(module, digits(str(tmp_path / "shards")), [], network(), tmp_path / "tuning.json")


class _Tied(nn.Module):
    """Two layers, and two batch norms, that are one under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)
        self.second.weight, self.again = self.first.weight, self.norm


def test_tied_weights_keep_all_their_names():
    backbone, weights = _Tied(), UnlearnedWeights()
    weights.take(SimpleNamespace(backbone=backbone))
    fresh = _Tied()
    fresh.load_state_dict(weights.state)
    assert fresh.state_dict().keys() == weights.state.keys()
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in backbone.state_dict().items())
