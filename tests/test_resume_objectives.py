"""Every objective that ships goes on bit for bit from the middle of an epoch; generated from configs/objective/."""

from pathlib import Path

import pytest
import torch
import yaml

import lightning_rectify.losses

OBJECTIVES = sorted((Path(__file__).parent.parent / "configs" / "objective").glob("*.yaml"))
SHORT = (
    "-c", "data/digits", "--data.batch_size", 32, "--model.backbone.width", 8, "--name", "run", "--final_test", "false",
    "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 5,
    "--trainer.limit_val_batches", 0, "--trainer.logger", "false", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false", "--checkpoint.monitor", "null", "--checkpoint.every_n_train_steps", 2,
    "--checkpoint.save_top_k", -1, "--checkpoint.filename", "{step}",
)  # fmt: skip


def request_of(config):
    """What to forget, if the objective unlearns: three batches of the five, so that the run is stopped among them.

    Where nothing else is read it is five.
    """
    name = yaml.safe_load(config.read_text())["model"]["objective"]["class_path"]
    objective = getattr(lightning_rectify.losses, name)
    if not objective.needs_retain:
        return ()
    return "--data.forget", "fraction:0.12" if objective.schedules[0] == "forget" else "fraction:0.06"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda path: path.stem)
def test_resume_is_exact(command, config):
    run = (*SHORT, "-c", config, *request_of(config))
    ended = command("fit", *run)
    assert ended.code == 0, ended.error
    checkpoints = command.folder / "runs" / "run" / "checkpoints"
    whole = torch.load(checkpoints / "last.ckpt", weights_only=True)
    assert whole["global_step"] == 5
    ended = command("fit", *run, "--ckpt_path", checkpoints / "step=2.ckpt")
    assert ended.code == 0, ended.error
    resumed = torch.load(checkpoints / "last.ckpt", weights_only=True)
    assert resumed["global_step"] == 5
    for name, value in whole["state_dict"].items():  # backbone, and the objective's own state
        assert torch.equal(value, resumed["state_dict"][name]), name
