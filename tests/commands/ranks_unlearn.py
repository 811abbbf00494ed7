"""The command unlearn in each of several processes; see test_unlearn.py."""

import json
import os
import sys
import time
from pathlib import Path

import torch
from processes import report

from lightning_rectify.collectives import broadcast_object
from lightning_rectify.commands.retrain import NOTE, Retraining
from lightning_rectify.train import main
from lightning_rectify.unlearning import WeightMask

torch.set_num_threads(1)


def told(folder, rank):
    """What a rank hears when the leader of a retraining breaks, beside the word of an earlier attempt."""
    retraining = object.__new__(Retraining)
    retraining.seeds = 1
    if rank == 0:
        (folder / NOTE).write_text(json.dumps({"models": []}))
    broadcast_object(None)
    if rank == 0:
        time.sleep(0.5)  # the other one is there first
    try:
        return len(retraining.run(None, folder, leader=rank == 0))
    except Exception as error:
        return f"{type(error).__name__} {error}"


def run(folder):
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    os.chdir(folder)
    sys.argv = ["train.py"]
    many = ["--trainer.strategy", "ddp", "--trainer.devices", str(world)] if world > 1 else []
    main(
        ["unlearn", "-c", "recipe/salun_digits", "--model.backbone.width", "8", "--trainer.max_epochs", "1",
         "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", *many,
         "--init_from", "runs/base/checkpoints/best.ckpt", "--data.forget", "fraction:0.1",
         "--data.batch_size", str(64 // world), "--name", f"ranks-{world}"]
    )  # fmt: skip
    path = Path(folder) / "runs" / f"ranks-{world}"
    calibrated = path.with_name("calibrated-ranks")
    calibrated.mkdir(exist_ok=True)
    os.environ["RECTIFY_RUN_FOLDER"] = str(calibrated)  # one launch agrees on one folder, and unlearning took it
    main(
        ["calibrate", "-c", "quickstart", "--model.backbone.width", "8", "--trainer.callbacks", "[]",
         "--trainer.enable_progress_bar", "false", *many, "--maps", "[temperature, isotonic]",
         "--init_from", str(path / "checkpoints" / "unlearned.ckpt")]
    )  # fmt: skip
    found = json.loads((path / "unlearning.json").read_text()) if rank == 0 else {}
    report(
        {
            "samples": found.get("samples"),
            "original": found.get("original"),
            "drift": found.get("off_mask_drift"),
            "cost": found.get("RTE"),
            "told": told(path, rank),
            "mask": WeightMask.load(path / "weight_saliency.safetensors").digest,
        }
    )


if __name__ == "__main__":
    run(sys.argv[1])
