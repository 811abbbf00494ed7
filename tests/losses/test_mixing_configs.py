"""Every ready-made objective of this family builds from its YAML, with the short names and types a config uses."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

import lightning_rectify
from lightning_rectify.losses import Alternate, Mixup, PowerLabel
from lightning_rectify.losses.objective import Objective
from lightning_rectify.names import public_names

CONFIGS = Path(lightning_rectify.__file__).parent / "configs" / "objective"
STEMS = {
    "empirical_risk": "EmpiricalRisk",
    "mixup": "Mixup",
    "mixup_decoupled": "Mixup",
    "cutmix": "CutMix",
    "fmix": "FMix",
    "fmix_official": "FMix",
    "manifold_mixup": "ManifoldMixup",
    "dirichlet_mixup": "DirichletMixup",
    "alternate": "Alternate",
}

pytestmark = pytest.mark.filterwarnings("ignore:DirichletMixup")


def build(*arguments: str) -> Objective:
    # short names resolve for imported classes only
    for name in public_names("losses"):
        if name in (*STEMS.values(), "PowerLabel", "Focal"):
            getattr(lightning_rectify.losses, name)
    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_argument("-c", action="config")
    parser.add_subclass_arguments(Objective, "model.objective")
    return parser.instantiate_classes(parser.parse_args(list(arguments))).model.objective


@pytest.mark.parametrize("stem", STEMS)
def test_config_builds(stem):
    assert type(build("-c", str(CONFIGS / f"{stem}.yaml"))).__name__ == STEMS[stem]


def test_values_arrive(tmp_path):
    config = tmp_path / "objective.yaml"
    config.write_text(
        "model: {objective: {class_path: Alternate, init_args: {weights: [2, 1], objectives: ["
        "{class_path: Mixup, init_args: {label: 0.7, base: {class_path: Focal}}}, "
        "{class_path: Mixup, init_args: {label: {class_path: PowerLabel, init_args: {power: 2}}}}]}}}"
    )
    objective = build("-c", str(config))
    assert isinstance(objective, Alternate)
    fixed, power = objective.objectives
    assert isinstance(fixed, Mixup)
    assert fixed.label == 0.7
    assert fixed.base.gamma == 2.0
    assert isinstance(power.label, PowerLabel)
    assert power.label.power == 2
    mixup = build("-c", str(CONFIGS / "mixup.yaml"), "--model.objective.label=independent")
    assert mixup.label == "independent"
    assert build("-c", str(CONFIGS / "mixup.yaml"), "--model.objective.label=0.25").label == 0.25
    given = ("--model.objective.label=PowerLabel", "--model.objective.label.power=2")
    power = build("-c", str(CONFIGS / "mixup.yaml"), *given).label
    assert isinstance(power, PowerLabel)


@pytest.mark.parametrize("objective", ["Mixup", "ManifoldMixup"])
def test_a_misspelt_label_rule_names_the_choices(command, objective):
    ended = command("fit", "-c", "data/digits", "--model.objective", objective, "--model.objective.label", "smae")
    assert ended.code == 2
    assert f"{objective}: label is 'smae'; choose same, independent" in ended.error
    assert ended.error.endswith("Did you mean same?")
