"""The main job on the real digits, shortened: what it leaves behind, and what resuming and restarting do."""

import csv
import json

import pytest
import torch
import yaml

from lightning_rectify.backbones import ResNet

SHORT = (
    "-c",
    "quickstart",
    "--trainer.max_epochs",
    2,
    "--model.backbone.width",
    8,
    "--trainer.enable_progress_bar",
    "false",
)


@pytest.fixture
def trained(command):
    ended = command("fit", *SHORT)
    assert ended.code == 0, ended.error
    return ended


def test_a_run_leaves_config_logs_checkpoints_figures_and_a_table(command, trained):
    run = command.folder / "runs" / "quickstart"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["backbone"]["init_args"]["classes"] == 10  # interpolation is resolved
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished" and record["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(record["manifest_sha256"]) == 64
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(run.glob("tensorboard/**/events*"))
    figures = [str(path.relative_to(run)) for path in run.glob("figures/**/*.png")]
    assert any("reliability" in name for name in figures) and any("saliency" in name for name in figures)
    with next(run.glob("csv/*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    val = [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]
    assert len(val) == 2 and val[-1] > 0.5
    assert {"train/loss", "train/accuracy", "train/loss_step", "val/ece_top_label_l1", "val/signed_gap"} <= rows[
        0
    ].keys()
    for word in ("accuracy", "ECE", "confidence - accuracy", "NLL", "Brier"):
        assert word in trained.out


def test_a_second_run_gets_a_sibling_and_a_resume_keeps_its_folder(command, trained):
    runs = command.folder / "runs"
    assert command("fit", *SHORT, "--trainer.max_epochs", 1).code == 0
    assert {path.name for path in runs.iterdir()} == {"quickstart", "quickstart-2"}
    last = runs / "quickstart" / "checkpoints" / "last.ckpt"
    assert command("fit", *SHORT, "--trainer.max_epochs", 3, "--ckpt_path", last).code == 0
    assert {path.name for path in runs.iterdir()} == {"quickstart", "quickstart-2"}
    assert torch.load(last, weights_only=True)["epoch"] == 2


def test_last_and_best_are_those_of_the_newest_run_that_has_them(command, trained):
    runs = command.folder / "runs"
    assert command("fit", *SHORT, "--trainer.fast_dev_run", 1).code == 0
    assert [path.name for path in runs.iterdir()] == ["quickstart"]  # a dry run leaves nothing
    (runs / "quickstart-2").mkdir()
    assert command("fit", *SHORT, "--trainer.max_epochs", 3, "--ckpt_path", "last").code == 0
    assert torch.load(runs / "quickstart/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    assert command("test", *SHORT, "--ckpt_path", "best").code == 0
    assert not any((runs / "quickstart-2").iterdir())


def test_what_fails_later_leaves_a_finished_run_as_it_was(command, trained):
    run = command.folder / "runs" / "quickstart"
    config, record = (run / "config.yaml").read_text(), (run / "run.json").read_text()
    refused = command("fit", *SHORT, "--ckpt_path", "last", "--model.backbone.depth", 14)
    assert refused.code == 2 and "another architecture" in refused.error
    assert command("test", *SHORT, "--ckpt_path", run / "checkpoints/best.ckpt", "--data.classes", 7).code == 2
    assert (run / "config.yaml").read_text() == config and (run / "run.json").read_text() == record


def test_a_resume_with_another_config_keeps_the_old_one(command, trained):
    run = command.folder / "runs" / "quickstart"
    config = (run / "config.yaml").read_text()
    assert command("fit", *SHORT, "--ckpt_path", "last", "--trainer.max_epochs", 3).code == 0
    assert (run / "config-before-step-38.yaml").read_text() == config
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(command, trained):
    best = command.folder / "runs/quickstart/checkpoints/last.ckpt"
    whole = torch.load(best, weights_only=True)
    keep = {"every_n_train_steps": 25, "save_top_k": -1, "filename": "{step}", "monitor": "null"}
    flags = [part for key, value in keep.items() for part in (f"--checkpoint.{key}", value)]
    assert command("fit", *SHORT, "--name", "halved", *flags).code == 0
    middle = command.folder / "runs/halved/checkpoints/step=25.ckpt"
    assert command("fit", *SHORT, "--ckpt_path", middle).code == 0
    resumed = torch.load(command.folder / "runs/halved/checkpoints/last.ckpt", weights_only=True)
    assert resumed["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_printed_config_runs_by_itself(command):
    printed = command("fit", *SHORT, "-c", "objective/mixup", "--print_config")
    (command.folder / "own.yaml").write_text(printed.out)
    assert "${" not in printed.out
    ended = command("fit", "-c", "own.yaml", "--trainer.fast_dev_run", 2)
    assert ended.code == 0, ended.error


def test_init_from_starts_new_and_replaces_a_head_on_request(command, trained):
    best = command.folder / "runs/quickstart/checkpoints/best.ckpt"
    assert command("fit", *SHORT, "--trainer.fast_dev_run", 1, "--init_from", best).code == 0
    wider = ("--model.backbone.classes", 12, "--init_from", best, "--trainer.fast_dev_run", 1)
    refused = command("fit", *SHORT, *wider)
    assert (
        refused.code == 2
        and "--replace_head true" in refused.error
        and "classifier.bias is (10,) there and (12,) here" in refused.error
    )
    assert command("fit", *SHORT, *wider, "--replace_head", "true").code == 0


def test_init_from_takes_plain_weights_and_safetensors(command):
    from safetensors.torch import save_file

    backbone = ResNet(10, channels=1, depth=8, width=8)
    torch.save(backbone.state_dict(), command.folder / "plain.pt")
    save_file(backbone.state_dict(), command.folder / "plain.safetensors")
    for name in ("plain.pt", "plain.safetensors"):
        assert command("fit", *SHORT, "--trainer.fast_dev_run", 1, "--init_from", name).code == 0


def test_predict_writes_the_test_split(command, trained):
    best = command.folder / "runs/quickstart/checkpoints/best.ckpt"
    ended = command("predict", *SHORT, "--ckpt_path", best)
    assert ended.code == 0, ended.error
    with (command.folder / "runs/quickstart/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["index"] for row in rows}) == 269 and len({row["key"] for row in rows}) == 269
    for row in rows:
        probability = {name: float(row[name]) for name in "0123456789"}
        assert sum(probability.values()) == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == max(probability, key=probability.__getitem__)


def test_test_reports_the_checkpoint(command, trained):
    best = command.folder / "runs/quickstart/checkpoints/best.ckpt"
    again = command("test", "-c", command.folder / "runs/quickstart/config.yaml", "--ckpt_path", best)
    assert again.code == 0, again.error
    rows = [line for line in again.out.splitlines() if line.startswith("│")]
    assert rows == [line for line in trained.out.splitlines() if line.startswith("│")][-len(rows) :]
    assert {"accuracy", "NLL", "Brier"} <= {row.split("│")[1].strip() for row in rows}
