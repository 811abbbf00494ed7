"""Each trainer config is one trainer that differs in where it runs, and in nothing else."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from jsonargparse import set_parsing_settings
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from lightning_rectify.names import import_rooms
from lightning_rectify.strategies import FSDP2, DeepSpeed

FOLDER = Path(__file__).parents[2] / "configs" / "trainer"
KEYS = {"accelerator", "devices", "num_nodes", "strategy", "precision"}


def build(*names, **overrides):
    import_rooms()  # short class names resolve among what is imported
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = LightningArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(Trainer, "trainer")
    files = [f"--config={FOLDER / name}.yaml" for name in names]
    options = [f"--trainer.{key}={value}" for key, value in {"logger": "false", **overrides}.items()]
    return Trainer(**parser.instantiate_classes(parser.parse_args([*files, *options])).trainer)


@pytest.mark.parametrize(
    ("name", "strategy", "attributes"),
    [
        ("cpu", SingleDeviceStrategy, {}),
        ("ddp", DDPStrategy, {"_timeout": timedelta(minutes=30)}),
        ("fsdp2", FSDP2, {"_timeout": timedelta(minutes=30)}),
        ("zero1", DeepSpeed, {"stage": 1, "_timeout": timedelta(minutes=30)}),
        ("zero2", DeepSpeed, {"stage": 2}),
        ("zero3", DeepSpeed, {"stage": 3}),
    ],
)
def test_a_config_builds_its_strategy(name, strategy, attributes):
    trainer = build(name, accelerator="cpu", devices=1)
    assert type(trainer.strategy) is strategy
    assert trainer.num_nodes == 1 and trainer.precision == "32-true"
    for key, value in attributes.items():
        assert getattr(trainer.strategy, key) == value


def test_the_number_of_nodes_comes_from_slurm(monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "3")
    assert build("ddp", accelerator="cpu", devices=2).num_nodes == 3


def test_the_last_file_decides():
    assert type(build("zero3", "cpu").strategy) is SingleDeviceStrategy
    assert build("cpu", "zero2", devices=1, accelerator="cpu").strategy.stage == 2


def test_offload_is_one_option():
    config = build("zero3", accelerator="cpu", devices=1, **{"strategy.init_args.offload": "true"}).strategy.config
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_sets_where_and_nothing_else(path):
    content = yaml.safe_load(path.read_text())
    assert content.keys() == {"trainer"} and content["trainer"].keys() == KEYS
