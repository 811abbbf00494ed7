"""Every config that ships can be composed and run."""

from pathlib import Path

import pytest
import yaml

import lightning_rectify.losses

CONFIGS = Path(__file__).parent.parent / "configs"
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
QUICK = ("--trainer.fast_dev_run", 1, *QUIET)


def shipped(folder):
    return [pytest.param(path, id=path.stem) for path in sorted((CONFIGS / folder).glob("*.yaml"))]


@pytest.mark.parametrize("config", shipped("objective"))
def test_objective_runs_on_digits(command, config):
    name = yaml.safe_load(config.read_text())["model"]["objective"]["class_path"]
    unlearns = getattr(lightning_rectify.losses, name).needs_retain
    # tests/test_resume_objectives.py runs those that unlearn, on the data they need
    ended = command("fit", "-c", "data/digits", "-c", config, *(("--print_config",) if unlearns else QUICK))
    assert ended.code == 0, ended.error


@pytest.mark.parametrize("config", shipped("callbacks"))
def test_callback_is_added_to_those_there_are(command, config):
    base = command.folder / "base.yaml"
    base.write_text("trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]}")
    ended = command("fit", "-c", "data/digits", "-c", base, "-c", config, "--print_config")
    assert ended.code == 0, ended.error
    names = [entry["class_path"].rpartition(".")[2] for entry in yaml.safe_load(ended.out)["trainer"]["callbacks"]]
    assert names[0] == "EarlyStopping" and len(names) == 2


@pytest.mark.parametrize("config", shipped("backbone"))
def test_backbone_runs_on_digits(command, config):
    ended = command("fit", "-c", "data/digits", "-c", config, "--trainer.accelerator", "cpu", *QUICK)
    assert ended.code == 0, ended.error


@pytest.mark.parametrize("config", [*shipped("trainer"), *shipped("data"), *shipped("recipe")])
def test_config_composes(command, config):
    extra = () if config.parent.name == "recipe" else ("-c", "data/digits")
    ended = command("fit", *extra, "-c", config, "-c", "objective/fmix", "--print_config")
    assert ended.code == 0, ended.error
    assert "${" not in ended.out


def test_configs_are_found_by_path_name_and_stem(command):
    for name in ("quickstart", "configs/quickstart.yaml", str(CONFIGS / "quickstart.yaml")):
        assert command("fit", "-c", name, "--print_config").code == 0
    assert command("fit", "-c", "digits", "-c", "fmix", "--print_config").code == 0


def test_a_config_changes_only_its_own_part():
    own = {
        "data": "data model module trainer",
        "backbone": "model",
        "objective": "model",
        "callbacks": "trainer",
        "trainer": "trainer",
    }
    for folder, keys in own.items():
        for path in (CONFIGS / folder).glob("*.yaml"):
            assert set(yaml.safe_load(path.read_text())) <= set(keys.split()), path.name
