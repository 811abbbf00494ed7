"""The reference of unlearning: what it is trained with, when it is found again, and what is heard of a failure."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from lightning_rectify.commands import retrain
from lightning_rectify.commands.retrain_config import check_same_samples, config_without, read_retrain_config
from lightning_rectify.commands.unlearn import UnlearningRun
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.errors import RectifyError

CONFIG = {"data": {"source": "digits"}, "model": {"objective": "FMix"}, "trainer": {"devices": 1}}


def written(folder, **changes):
    path = folder / "o.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


@pytest.fixture
def data():
    data = ShardDataModule("digits", forget="class:3", schedule="retain")
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("key", ["callbacks", "callbacks+"])
def test_observers_are_left_out_however_they_are_written(key):
    listed = ["EMA", "SaliencyMaps", {"class_path": "lightning_rectify.callbacks.CalibrationReport"},
              {"class_path": "WeightWatcher", "init_args": {"every": 2}}]  # fmt: skip
    found = config_without({**CONFIG, "trainer": {key: listed}}, Path("f.npy"), Path("r"), 0)["trainer"]
    assert found[key] == [listed[0], listed[3]]
    assert {"callbacks", "callbacks+"} & found.keys() == {key}
    one = config_without({**CONFIG, "trainer": {key: "EMA"}}, Path("f.npy"), Path("r"), 0)["trainer"]
    assert one[key] == ["EMA"]


@pytest.mark.parametrize("own", [None, "class:1", ["class:1", "fraction:0.1"]])
def test_what_the_original_left_out_itself_stays_out(own):
    found = config_without({**CONFIG, "data": {"forget": own}}, Path("f.npy"), Path("r"), 0)["data"]
    before = {None: [], "class:1": ["class:1"]}.get(own if own is None or isinstance(own, str) else "", own)
    assert found == {"forget": [*before, "index:f.npy"], "schedule": "retain"}


def test_weights_that_a_resumed_training_started_from_are_found(tmp_path):
    path = written(tmp_path)
    assert read_retrain_config(path)["trainer"] == {"devices": 1}
    (tmp_path / "o-before-step-7.yaml").write_text(yaml.safe_dump({**CONFIG, "init_from": "seen.ckpt"}))
    with pytest.raises(RectifyError, match=r"o-before-step-7.yaml starts from seen.ckpt, .*--retrain_config"):
        read_retrain_config(path)


def test_the_same_options_in_other_words_are_the_same():
    here = {"imbalance": {"class_path": "lightning_rectify.datamodules.LongTail", "init_args": {"ratio": 0.01}}}
    for options in ({"ratio": "1/100"}, {"ratio": "${ratio}"}, {"ratio": 0.01}, {}):
        there = {"class_path": "LongTail", "init_args": options}
        check_same_samples({"data": {"imbalance": there}}, Path("o.yaml"), here)
    check_same_samples({"data": {"imbalance": "LongTail"}}, Path("o.yaml"), here)
    check_same_samples({"data": {}}, Path("o.yaml"), {"imbalance": None, "label_noise": None})
    with pytest.raises(RectifyError, match=r"data.imbalance.ratio is 0.01 here and 1/50 in o.yaml"):
        other = {"class_path": "LongTail", "init_args": {"ratio": "1/50"}}
        check_same_samples({"data": {"imbalance": other}}, Path("o.yaml"), here)


def test_a_model_is_found_again_for_the_same_samples_a_step(tmp_path, data, monkeypatch):
    """Each process takes a batch, so that other devices are another training; and so is another version."""
    monkeypatch.setenv("RECTIFY_DATA", str(tmp_path))
    homes = []

    def train(self, data, home, seed):
        (home / "checkpoints").mkdir(parents=True)
        (home / "checkpoints/best.ckpt").touch()
        (home / retrain.MARK).write_text(json.dumps({"seconds": 1.0}))
        homes.append(home)

    monkeypatch.setattr(retrain.Retraining, "_train", train)

    def trained(**changes):
        before = len(homes)
        path = written(tmp_path, **changes)
        retrain.Retraining(tmp_path / "best.ckpt", str(path), 1).run(data, tmp_path, leader=True)
        return len(homes) > before

    assert trained() and not trained()
    assert trained(trainer={"devices": 2}) and not trained(trainer={"devices": 2})
    assert trained(trainer={"devices": 1, "num_nodes": 2})
    assert not trained(trainer={"devices": 1, "log_every_n_steps": 3})
    data.forgotten_before = np.arange(2)
    assert trained()
    monkeypatch.setattr(retrain, "__version__", "0.0.0")
    assert trained() and len(set(homes)) == len(homes)


@pytest.mark.parametrize("error", [RectifyError("said."), RuntimeError("broke"), KeyboardInterrupt()])
def test_a_failure_is_told_to_those_who_wait_and_forgotten_by_the_next_attempt(tmp_path, data, monkeypatch, error):
    def fail(*_):
        raise error

    retraining = retrain.Retraining(tmp_path / "best.ckpt", str(written(tmp_path)), 1)
    monkeypatch.setattr(retraining, "_one", fail)
    with pytest.raises(type(error)):
        retraining.run(data, tmp_path, leader=True)
    with pytest.raises(RectifyError, match=f"said|--retrain: {type(error).__name__}"):
        retraining.run(data, tmp_path, leader=False)

    seen = []
    monkeypatch.setattr(retraining, "_one", lambda *_: seen.append((tmp_path / retrain.NOTE).exists()) or ("a", 1.0))
    assert retraining.run(data, tmp_path, leader=True)[0].seconds == 1.0
    assert seen == [False]
    assert retraining.run(data, tmp_path, leader=False)[0].weights == Path("a")


def test_a_run_whose_retraining_fails_is_recorded_as_failed(tmp_path):
    def fail(resumed):
        raise RectifyError("--retrain: the training failed.")

    (tmp_path / "run.json").write_text(json.dumps({"status": "running"}))
    run = object.__new__(UnlearningRun)
    run.folder, run.model = tmp_path, SimpleNamespace(edit=None)
    run.trainer, run.weights = SimpleNamespace(fast_dev_run=0, is_global_zero=True), SimpleNamespace(state={})
    run._forget, run._conclude = lambda *_: None, fail
    with pytest.raises(RectifyError):
        run(None, None)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == {"status": "failed", "error": "--retrain: the training failed."}
