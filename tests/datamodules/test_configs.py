"""The data configs build what they say, through the parser of the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from jsonargparse import set_parsing_settings
from pytorch_lightning.cli import LightningCLI

import lightning_rectify
from lightning_rectify.backbones import Backbone, ResNet
from lightning_rectify.datamodules import Flip, PadCrop, ShardDataModule

CONFIGS = Path(lightning_rectify.__file__).parent / "configs" / "data"


class Model(pl.LightningModule):
    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone


def parse(*arguments):
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return LightningCLI(
        Model,
        ShardDataModule,
        run=False,
        save_config_callback=None,
        args=[*arguments, "--trainer.accelerator=cpu", "--trainer.logger=false"],
        parser_kwargs={"parser_mode": "omegaconf+"},
    )


def test_digits():
    cli = parse(f"--config={CONFIGS / 'digits.yaml'}")
    cli.datamodule.prepare_data()
    cli.datamodule.setup()  # raises if classes, channels or size are wrong
    check_statistics(cli)


def test_cifar10_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    parts = {f"{s}_images": rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "cifar10.npz", **parts, train_labels=np.arange(40) % 10, test_labels=np.arange(40) % 10)
    cli = parse(
        f"--config={CONFIGS / 'cifar10.yaml'}",
        f"--data.build.source={tmp_path / 'cifar10.npz'}",
        "--data.build.name=small",  # a folder of its own
        "--model.backbone.init_args.depth=8",
    )
    assert [type(a) for a in cli.datamodule.augment] == [PadCrop, Flip]
    cli.datamodule.prepare_data()
    cli.datamodule.setup()
    assert cli.datamodule.class_names[0] == "airplane"
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert batch["image"].shape[1:] == (3, 32, 32)


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="dataset-fashion-mnist is not there")
def test_fashion_mnist():
    cli = parse(f"--config={CONFIGS / 'fashion_mnist.yaml'}")
    cli.datamodule.prepare_data()
    cli.datamodule.setup()
    manifest = cli.datamodule.manifest
    assert {split: sum(counts) for split, counts in manifest.counts.items()} == {
        "train": 54000,
        "val": 6000,
        "test": 10000,
    }
    assert manifest.class_names[0] == "T-shirt/top"
    check_statistics(cli)


def check_statistics(cli):
    manifest = json.loads((cli.datamodule.manifest.folder / "manifest.json").read_text())
    assert (cli.datamodule.mean, cli.datamodule.std) == (manifest["mean"], manifest["std"])
    assert isinstance(cli.model.backbone, ResNet)
    assert cli.model.backbone.normalize.mean.flatten().tolist() == pytest.approx(manifest["mean"])
