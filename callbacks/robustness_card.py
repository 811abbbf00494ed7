"""The card of a robust network: RobustBench's fields, and what they leave out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule, Trainer

from ..errors import RectifyError, did_you_mean
from ..files import atomic_path
from ..metrics.class_accuracy import ClassAccuracies
from ..metrics.energy_sums import Energies
from ..randomness import global_seed
from .masking_flags import Flag
from .robustness_history import RobustnessHistory
from .robustness_trials import Trial

FIELDS = (
    "link",
    "name",
    "authors",
    "additional_data",
    "number_forward_passes",
    "dataset",
    "venue",
    "architecture",
    "eps",
    "clean_acc",
    "reported",
    "autoattack_acc",
    "footnote",
    "unreliable",
)
"""RobustBench's; accuracies are strings in per cent with two digits, as there."""
MEASURED = ("eps", "clean_acc", "autoattack_acc", "unreliable")


def check_card_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields a user gives; those that are measured he may not.

    Raises:
        RectifyError: an unknown or a measured field.
    """
    for name in given:
        if name in MEASURED:
            raise RectifyError(f"RobustnessReport: card.{name} is measured; leave it out.")
        if name not in FIELDS:
            raise RectifyError(f"RobustnessReport: card has no field {name!r}.{did_you_mean(name, FIELDS)}")
    return dict(given)


def make_card(
    trainer: Trainer,
    module: LightningModule,
    given: Mapping[str, Any],
    trials: Sequence[Trial],
    accuracies: Mapping[str, ClassAccuracies],
    energies: Energies,
    history: RobustnessHistory,
    flags: Sequence[Flag],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card as plain values.

    Args:
        accuracies: by trial name; `clean` and `robust` (right as it is and under every attack) besides.
        history: what it does not know, as the last validation after the one of a checkpoint, is null.
        facts: further plain values.
    """
    backbone = getattr(module, "backbone", module)
    data = getattr(trainer, "datamodule", None)
    fields: dict[str, Any] = {
        "link": None,
        "name": Path(trainer.default_root_dir).resolve().name,
        "authors": None,
        "additional_data": False,
        "number_forward_passes": "1",
        "dataset": str(getattr(data, "source", type(data).__name__ if data is not None else "unknown")),
        "venue": None,
        "architecture": type(backbone).__name__,
        "eps": _fraction(getattr(trials[0].attack, "eps", None)),
        "clean_acc": _percent(accuracies["clean"].overall()),
        "reported": _percent(accuracies["robust"].overall()),
        "autoattack_acc": _percent(accuracies["autoattack"].overall()) if "autoattack" in accuracies else None,
        "footnote": None,
        "unreliable": any(flag.raised for flag in flags),
        **given,
    }
    names = getattr(data, "class_names", None)
    best, last = history.best, history.last if history.whole else None
    clean, attacked, gap = energies.means
    return {
        **fields,
        "threat_model": "L2" if getattr(trials[0].attack, "norm", "linf") == "l2" else "Linf",
        "samples": accuracies["clean"].samples,
        "class_names": list(map(str, names)) if names is not None else None,
        "accuracy": {
            name: {**{key or "overall": value for key, value in each.scores().items()}, "per_class": _plain(each)}
            for name, each in accuracies.items()
        },
        "attacks": {trial.name: trial.settings() for trial in trials},
        "energy": {"clean": clean, "adversarial": attacked, "gap": gap},
        "validation": {
            "best": asdict(best) if best else None,
            "last": asdict(last) if last else None,
            "robust_gap": history.gap if last else None,
            "phase": history.phases()[-1] if last else None,
        },
        "flags": [{**asdict(flag), "raised": flag.raised} for flag in flags],
        "seed": global_seed(),
        "versions": {"torch": torch.__version__, "pytorch_lightning": pl.__version__},
        **facts,
    }


def write_card(path: Path, content: Mapping[str, Any]) -> None:
    """Write the card as JSON; for one process to call."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=2) + "\n", encoding="utf-8")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _fraction(eps: float | None) -> str | None:
    if eps is None:
        return None
    levels = round(eps * 255)
    return f"{levels}/255" if levels and abs(eps * 255 - levels) < 1e-6 else f"{eps:.6g}"


def _plain(accuracies: ClassAccuracies) -> list[float]:
    return accuracies.accuracy.tolist()


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON: a class without samples has null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
