"""The command unlearn on the digits: what it writes, with whom it compares, and that a resume ends the same."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from processes import run_ranks
from pytorch_lightning import Callback
from sklearn.metrics import accuracy_score

from lightning_rectify.commands import cli
from lightning_rectify.commands import retrain as retraining
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.unlearning import WeightMask

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
SMALL = ("--model.backbone.width", 8, "--trainer.max_epochs", 2, *QUIET)
BASE = ("fit", "-c", "quickstart", "--name", "base", "--trainer.callbacks", "[]", "--final_test", "false", *SMALL)
UNLEARN = ("unlearn", "-c", "recipe/salun_digits", *SMALL, "--init_from", "runs/base/checkpoints/best.ckpt")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the run of the original."""
    from lightning_rectify.train import main

    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    try:
        main([str(argument) for argument in BASE])
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def base(trained, command):
    """The command line in a copy of it."""
    shutil.copytree(trained, command.folder, dirs_exist_ok=True)
    return command


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_forgetting_with_a_paired_retrained_model(base):
    data = ShardDataModule("digits")
    data.setup()
    wanted = np.sort(data.index.train[::9])
    (base.folder / "requests.csv").write_text("key\n" + "\n".join(data.index.key[wanted]))
    original = base.folder / "runs/base/checkpoints/best.ckpt"
    before = original.read_bytes()
    arguments = (*UNLEARN, "--data.forget", "requests.csv", "--name", "forgot", "--retrain", "true")
    ended = base(*arguments)
    assert ended.code == 0, ended.lines
    run = base.folder / "runs" / "forgot"
    assert original.read_bytes() == before

    # what is left: the unlearned backbone alone, no checkpoint with the original's weights or the optimizer's state
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["unlearned.ckpt"]
    result, start = weights(run / "checkpoints" / "unlearned.ckpt"), weights(original)
    assert result.keys() == {name for name in start if name.startswith("backbone.")}
    mask = WeightMask.load(run / "weight_saliency.safetensors")
    moved = 0
    for name in mask.packed:
        off = ~mask.bits(name)
        assert torch.equal(result[f"backbone.{name}"][off], start[f"backbone.{name}"][off])
        moved += int((result[f"backbone.{name}"] != start[f"backbone.{name}"]).sum())
    assert moved > 0.8 * mask.ones

    # the report says of the test split what the command test says of the checkpoint
    report = json.loads((run / "unlearning.json").read_text())
    assert report["off_mask_drift"] == 0 and report["samples"]["forget"] == len(wanted)
    assert {"UA", "RA", "TA", "MIA_confidence", "AvgGap", "ToW", "RTE", "verdict"} <= report.keys()
    assert report["retrained_models"] == 1 and report["AvgGap"] is not None
    steps = 2 * (len(data.index.train) - len(wanted)) // 64 * 64
    cost = report["RTE"]
    assert cost["forget_gradients"] == 3 * len(wanted)  # the mask and two epochs
    assert 0 < cost["seconds"] < 60 and abs(cost["retain_gradients"] - steps) <= 64
    models = {"original", "unlearned", "retrained"}
    assert report["relearning"].keys() == report["ZRF"].keys() == models and "probe" not in report
    assert 0 < report["ZRF"]["original"] < report["ZRF"]["retrained"] + 0.02 < 1.02  # it has learnt these samples
    assert (run / "figures" / "unlearning.png").is_file()
    assert report["verdict"].split(".")[0] in " ".join(ended.out.split())
    config = base.folder / "runs/base/config.yaml"
    tested = base(
        "predict", "-c", config, "--ckpt_path", run / "checkpoints/unlearned.ckpt", "--name", "tested", *QUIET
    )
    assert tested.code == 0, tested.lines
    rows = [line.split(",") for line in (run / "predictions.csv").read_text().splitlines()[1:]]
    labels = [str(data.index.label[int(row[1])]) for row in rows]
    assert report["TA"] == pytest.approx(100 * accuracy_score(labels, [row[2] for row in rows]))

    # the retrained model never saw them, and a second request finds it
    log = json.loads((run / "requests_log.json").read_text())
    (home,) = (retraining.data_home() / "retrained").glob("[!.]*")
    assert np.load(home / "forget.npy").tolist() == wanted.tolist()
    assert yaml.safe_load((home / "config.yaml").read_text())["data"]["schedule"] == "retain"
    stamp = (home / "retrained.json").stat().st_mtime_ns
    again = ShardDataModule("digits", forget="requests.csv")
    again.setup()
    (found,) = retraining.Retraining(original, None, 1).run(again, base.folder, leader=True)
    assert found.weights == home / "checkpoints" / "best.ckpt"
    assert (home / "retrained.json").stat().st_mtime_ns == stamp

    # who, what and hashes; no key in the log
    keys = sorted(data.index.key[wanted].tolist())
    assert log["samples"] == len(wanted) and log["requests"] == ["requests.csv"]
    assert log["keys_sha256"] == hashlib.sha256("\n".join(keys).encode()).hexdigest()
    assert log["original_sha256"] == hashlib.sha256(before).hexdigest()
    assert not any(key in json.dumps(log) for key in keys)
    held = {Path(path).name for path in log["purge"]}
    assert {"best.ckpt", "last.ckpt", "shard-000000.tar"} <= held
    assert "unlearned.ckpt" not in held


EVERY = ("--checkpoint.every_n_train_steps", 1, "--checkpoint.save_top_k", -1, "--checkpoint.monitor", "null",
         "--checkpoint.filename", "{step}")  # fmt: skip


def same_end(base, whole, *runs):
    """Whether runs end with the weights, scores and counts of a whole one."""
    report = json.loads((base.folder / f"runs/{whole}/unlearning.json").read_text())
    expected = weights(base.folder / f"runs/{whole}/checkpoints/unlearned.ckpt")
    for name in runs:
        found = weights(base.folder / f"runs/{name}/checkpoints/unlearned.ckpt")
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name
        again = json.loads((base.folder / f"runs/{name}/unlearning.json").read_text())
        assert again["original"] == report["original"] and again["UA"] == report["UA"]
        for kind in ("forget_gradients", "retain_gradients"):
            assert again["RTE"][kind] == report["RTE"][kind], kind
    return expected, report


def test_pairs_resume_from_a_bare_state_dict_with_frozen_batch_norm(base):
    start = {k.removeprefix("backbone."): v for k, v in weights(base.folder / UNLEARN[-1]).items() if "backbone." in k}
    torch.save(start, base.folder / "bare.pt")
    common = (*UNLEARN[:-1], "bare.pt", "--data.forget", "class:3", "--data.schedule", "paired", *EVERY)
    # its additional class is the objective's own, trained and resumed with it, and not part of the result
    freeze = ("-c", "objective/boundary_expand", "--model.bn_stats", "freeze")
    assert base(*common, *freeze, "--name", "whole", "--checkpoint.dirpath", "steps").code == 0
    resume = ("--ckpt_path", "steps/step=5.ckpt", "--checkpoint.dirpath", "other")
    ended = base(*common, *freeze, *resume, "--name", "from-5")
    assert ended.code == 0, ended.lines
    result, report = same_end(base, "whole", "from-5")
    assert report["forgotten_classes"] == [3] and report["AvgGap"] is None
    assert {name: value.shape for name, value in result.items()} == {f"backbone.{k}": v.shape for k, v in start.items()}
    moving = [name for name in result if "running" in name]
    assert moving and all(torch.equal(result[name], start[name.removeprefix("backbone.")]) for name in moving)


def test_a_training_free_edit(base):
    ended = base(
        *UNLEARN, "--data.forget", "class:3", "--model.method", "SSD", "--model.method.alpha", 1, "--name", "edited",
        "--trainer.callbacks", "[]",
    )  # fmt: skip
    assert ended.code == 0, ended.lines
    run = base.folder / "runs" / "edited"
    report = json.loads((run / "unlearning.json").read_text())
    result, start = weights(run / "checkpoints/unlearned.ckpt"), weights(base.folder / UNLEARN[-1])
    assert any(not torch.equal(value, start[name]) for name, value in result.items())
    assert report["UA"] >= report["original"]["UA"] and (run / "config.yaml").is_file()
    assert report["probe"].keys() == {"original", "unlearned"} and report["probe"]["original"] > 80
    assert "linear probe, accuracy on the classes: original" in ended.out and "ZRF" in ended.out
    assert json.loads((run / "run.json").read_text())["status"] == "finished"

    # a second request: what was forgotten before is neither learnt again nor asked for again
    again = (*UNLEARN[:-1], run / "checkpoints/unlearned.ckpt", "--model.method", "SSD", "--trainer.callbacks", "[]")
    ended = base(*again, "--data.forget", "class:5", "--name", "second")
    assert ended.code == 0, ended.lines
    second = base.folder / "runs" / "second"
    report = json.loads((second / "unlearning.json").read_text())
    data = ShardDataModule("digits")
    data.setup()
    three, five = (data.index.train[data.index.label[data.index.train] == label] for label in (3, 5))
    assert report["samples"]["forget"] == len(five)
    assert report["samples"]["retain"] == len(data.index.train) - len(three) - len(five)
    note = torch.load(second / "checkpoints/unlearned.ckpt", weights_only=True)["unlearned"]
    assert note["index"].tolist() == sorted([*three.tolist(), *five.tolist()]) and note["samples"] == len(five)
    log = json.loads((second / "requests_log.json").read_text())
    assert log["forgotten_before"] == len(three)
    held = json.loads((run / "requests_log.json").read_text())["purge"]
    assert str(base.folder.resolve() / UNLEARN[-1]) in held and set(held) <= set(log["purge"])


def test_two_processes_report_on_every_sample_once(base):
    two = run_ranks(Path(__file__).with_name("ranks_unlearn.py"), str(base.folder))
    ended = base(*UNLEARN, "--trainer.max_epochs", 1, "--data.forget", "fraction:0.1", "--name", "one")
    assert ended.code == 0, ended.lines
    one = json.loads((base.folder / "runs/one/unlearning.json").read_text())
    assert two[0]["samples"] == one["samples"] and two[0]["original"] == pytest.approx(one["original"])
    assert two[0]["mask"] == WeightMask.load(base.folder / "runs/one/weight_saliency.safetensors").digest
    assert two[0]["drift"] == 0
    assert two[0]["cost"]["forget_gradients"] - one["RTE"]["forget_gradients"] in (0, 1)  # the last batch is made even
    assert two[1]["samples"] is None  # rank 0 alone reports
    # both calibrate what they unlearnt: as one process does, and the checkpoint still says what was forgotten
    unlearned = base.folder / "runs/ranks-2/checkpoints/unlearned.ckpt"
    ended = base("calibrate", *BASE[1:3], "--model.backbone.width", 8, "--trainer.callbacks", "[]", *QUIET,
                 "--init_from", unlearned, "--maps", "[temperature, isotonic]", "--name", "calibrated")  # fmt: skip
    assert ended.code == 0, ended.lines
    both, alone = (
        json.loads((base.folder / f"runs/{name}/calibration.json").read_text())
        for name in ("calibrated-ranks", "calibrated")
    )
    data = ShardDataModule("digits")
    data.setup()
    assert both["calibration_samples"] == len(data.ids["val"]) and len(data.ids["val"]) % 2
    assert both["test_samples"] == len(data.ids["test"]) and both["chosen"] == alone["chosen"]
    for name in ("before", "after", "held_out"):
        assert both[name] == pytest.approx(alone[name], rel=1e-5, abs=1e-6), name
    note, carried = (
        torch.load(path, weights_only=True)["unlearned"]
        for path in (unlearned, base.folder / "runs/calibrated-ranks/calibrated.ckpt")
    )
    assert torch.equal(note.pop("index"), carried.pop("index")) and note == carried and note["keys_sha256"]
    # a retraining breaks on rank 0: the other one neither waits for ever nor believes the word of an earlier attempt
    assert two[0]["told"].startswith("AttributeError")
    assert two[1]["told"].startswith("RectifyError --retrain: AttributeError")


def test_tuning_chooses_by_validation_samples_and_leaves_no_trace(base):
    common = (*UNLEARN, "--data.forget", "fraction:0.1")
    ended = base(*common, "--name", "tuned", "--tune_lr", "[0.0001, 0.03]", "--tune_density", "[0.3]")
    assert ended.code == 0, ended.lines
    tuning = json.loads((base.folder / "runs/tuned/tuning.json").read_text())
    trials, chosen = tuning["trials"], tuning["chosen"]
    assert [(trial["lr"], trial["density"]) for trial in trials] == [(0.0001, 0.3), (0.03, 0.3)]
    assert chosen["proxy_gap"] == min(t["proxy_gap"] for t in trials) < max(t["proxy_gap"] for t in trials)
    mask = {"class_path": "WeightSaliency", "init_args": {"density": chosen["density"]}}
    (base.folder / "density.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [mask]}}))
    plain = ("--model.optimizer.lr", chosen["lr"], "-c", "density.yaml", "--name", "plain")
    ended = base(*common, *plain)
    assert ended.code == 0, ended.lines
    tuned, same = (weights(base.folder / f"runs/{name}/checkpoints/unlearned.ckpt") for name in ("tuned", "plain"))
    assert all(torch.equal(value, same[name]) for name, value in tuned.items())


class _Signal(Callback):
    """Sends the signal of a coming kill after some steps."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_run_goes_on_from_either_pass_and_after_a_preemption(base, monkeypatch):
    common = (*UNLEARN, "--data.forget", "class:3", "-c", "callbacks/preemption", *EVERY)
    assert base(*common, "--name", "whole", "--checkpoint.dirpath", "steps").code == 0
    resume = ("--ckpt_path", "steps/step=1.ckpt", "--checkpoint.dirpath", "other")  # in the forget pass
    ended = base(*common, *resume, "--name", "from-1")
    assert ended.code == 0, ended.lines
    before = cli.RectifyCLI.before_unlearn

    def and_signal(self):
        before(self)
        self.trainer.callbacks.append(_Signal())

    with monkeypatch.context() as patched:
        patched.setattr(cli.RectifyCLI, "before_unlearn", and_signal)
        assert base(*common, "--name", "cut").code == 0
    run = base.folder / "runs" / "cut"
    assert not (run / "unlearning.json").exists() and (run / "preempt-4.ckpt").is_file()  # in the retain pass
    ended = base(*common, "--name", "cut", "--ckpt_path", run / "preempt-4.ckpt")
    assert ended.code == 0, ended.lines
    same_end(base, "whole", "from-1", "cut")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["unlearned.ckpt"]
    assert not list(run.glob("preempt-*"))
