"""The config a retraining runs: the original's, checked to give a model that never saw the forgotten samples."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from .. import losses
from ..errors import RectifyError

OBSERVERS = ("CalibrationReport", "SaliencyMaps", "RobustnessReport", "NeuralCollapse", "ExampleScores")
CHOOSING = ("imbalance", "label_noise")
"""Keys of `data` that choose samples and labels beside what the manifest says."""


def read_retrain_config(path: Path) -> dict[str, Any]:
    """Read the config of a training from scratch.

    Raises:
        RectifyError: it is no config of a training, or of one whose result may know the samples: that started from
            weights, also before it was resumed, or that unlearns.
    """
    remedy = "give the config of a training from scratch as --retrain_config FILE."
    config = _read(path)
    if config is None:
        raise RectifyError(f"--retrain: {path} is no config of a training; give --retrain_config FILE.")
    if _unlearns(config):
        raise RectifyError(f"--retrain: {path} is the config of an unlearning; {remedy}")
    # a resumed run may not name what it started from any more
    for earlier in (path, *sorted(path.parent.glob(f"{path.stem}-before-step-*.yaml"))):
        start = (_read(earlier) or {}).get("init_from")
        if start:
            raise RectifyError(f"--retrain: {earlier} starts from {start}, which may have seen the samples; {remedy}")
    return config


def check_same_samples(config: Mapping[str, Any], path: Path, data: Mapping[str, Any]) -> None:
    """Raise RectifyError where the `data` of the unlearning choose other samples or labels than the config in `path`.

    Of a config that leaves options out, those are compared that it names.
    """
    for key in CHOOSING:
        here, there = _named(data.get(key)), _named(config["data"].get(key))
        found: tuple[str, Any, Any] | None = None
        if here[0] != there[0]:
            found = f"data.{key}", here[0], there[0]
        else:
            options = [name for name in here[1] if name in there[1] and not _same(here[1][name], there[1][name])]
            found = next(((f"data.{key}.{name}", here[1][name], there[1][name]) for name in options), None)
        if found:
            raise RectifyError(
                f"--retrain: {found[0]} is {found[1]} here and {found[2]} in {path}, so the retrained model would see "
                "other samples; set it alike."
            )


def config_without(config: Mapping[str, Any], forget: Path, runs: Path, seed: int) -> dict[str, Any]:
    """The config on the retained samples only, in a folder of its own, without figures and logs.

    What the config leaves out itself stays out.

    Args:
        forget: file of the indices to leave out.
        runs: folder that the run `run` is made in.
    """
    kept = {key: value for key, value in config.items() if key not in ("config", "ckpt_path")}
    own = config["data"].get("forget") or []
    left_out = [*([own] if isinstance(own, str) else own), f"index:{forget}"]
    kept["data"] = {**config["data"], "forget": left_out, "schedule": "retain"}
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": None, "num_nodes": 1}
    kept["trainer"] = {**config["trainer"], **quiet}
    for key in ("callbacks", "callbacks+"):  # a config of a run has the first, one written by hand may have either
        listed = config["trainer"].get(key) or []
        listed = listed if isinstance(listed, list) else [listed]
        if listed:
            kept["trainer"][key] = [entry for entry in listed if _named(entry)[0] not in OBSERVERS]
    kept["checkpoint"] = {**(config.get("checkpoint") or {}), "dirpath": None}
    return {**kept, "name": "run", "runs_dir": str(runs), "seed_everything": seed, "final_test": False}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    whole = isinstance(config, dict) and all(isinstance(config.get(key), dict) for key in ("data", "model", "trainer"))
    return config if whole else None


def _unlearns(config: Mapping[str, Any]) -> bool:
    model = config["model"]
    objective = getattr(losses, _named(model.get("objective"))[0] or "_", None)
    module = str(config.get("module")).rpartition(".")[2]
    return module == "Unlearner" or bool(model.get("method")) or bool(getattr(objective, "needs_retain", False))


def _named(entry: Any) -> tuple[str | None, Mapping[str, Any]]:
    """Class name and options of an entry, which may also be the name alone."""
    if not entry:
        return None, {}
    if isinstance(entry, Mapping):
        options = entry.get("init_args")
        return str(entry.get("class_path")).rpartition(".")[2], options if isinstance(options, Mapping) else {}
    return str(entry).rpartition(".")[2], {}


def _same(one: Any, other: Any) -> bool:
    if "${" in f"{one}{other}":  # not resolved: nothing to compare
        return True
    try:
        return Fraction(str(one)) == Fraction(str(other))  # 1/100 and 0.01
    except (ValueError, ZeroDivisionError):
        return str(one) == str(other)
