"""What the report of robustness logs in validation, and whether that can be had and watched in a run."""

import math
from typing import Any

from pytorch_lightning import Trainer

from ..errors import RectifyError
from ..metrics.class_accuracy import ClassAccuracies

FIGURES = ("", "_worst_class", "_tail30", "_class_std", "_disparity")  # as ClassAccuracies.scores has them


def validation_keys(attack: str, mark: str = "", classes: int = 0) -> list[str]:
    """Return the keys of a validation under the attack of this name; `mark` ends those that do not name it.

    Args:
        attack: such as `pgd20`.
        mark: ends the keys that do not name the attack.
        classes: how many classes are logged one by one.
    """
    figures = (*FIGURES, *(f"_class_{c}" for c in range(classes)))
    keys = [f"val/clean_accuracy{figure}{mark}" for figure in figures]
    keys += [f"val/robust_accuracy{figure}_{attack}" for figure in figures]
    return keys + [f"val/{name}{mark}" for name in ("energy_clean", "energy_adversarial", "energy_gap", "robust_gap")]


def known_classes(trainer: Trainer, pl_module: Any) -> int:
    """Return the number of classes that our backbones and data modules state; 0 if neither is one of ours."""
    stated = (getattr(owner, "classes", None) for owner in (getattr(pl_module, "backbone", None), trainer.datamodule))  # type: ignore[attr-defined]
    return next((found for found in stated if isinstance(found, int)), 0)


def keyed_scores(
    stage: str, what: str, accuracies: ClassAccuracies, tail: str, most_classes: int = 0
) -> dict[str, float]:
    """Return the five figures under their keys and, of at most that many classes, each one's accuracy."""
    scores = dict(zip(FIGURES, accuracies.scores().values(), strict=True))
    if len(accuracies.count) <= most_classes:
        each = enumerate(accuracies.accuracy.tolist())
        scores |= {f"_class_{c}": value for c, value in each if not math.isnan(value)}
    return {f"{stage}/{what}{figure}{tail}": value for figure, value in scores.items()}


def check_fresh(trainer: Trainer, keys: list[str], every: int, who: str) -> None:
    """Refuse a callback that watches one of the keys where validations leave it as it was.

    Raises:
        RectifyError: Lightning keeps the last value, so the weights of another epoch would be judged by it.
    """
    if every <= (trainer.check_val_every_n_epoch or 1):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor: Any = getattr(callback, "monitor", None)
        if monitor in keys:
            raise RectifyError(
                f"{type(callback).__name__}: monitor is {monitor}, which {who} measures every {every} epochs only, so "
                f"other epochs would be judged by an old value; set every_n_epochs of {who} to 1."
            )


def check_validated(trainer: Trainer, who: str) -> None:
    """Raise RectifyError if the training validates nothing, as far as that is known: loaders may come late."""
    loaded = trainer.val_dataloaders is not None
    if not trainer.enable_validation or (loaded and not sum(trainer.num_val_batches[:1])):
        raise RectifyError(
            f"{who} attacks the validation data, but this run has no validation; give it a validation loader, or "
            "set every_n_epochs to 0."
        )


def check_alone(reports: list[list[str]], who: str) -> None:
    """Raise RectifyError if attacks of two reports of a run have one name: they would log under the same keys."""
    names = [name for report in reports for name in set(report)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RectifyError(
            f"{who}: two of them run {', '.join(twice)} and would log it under one key; give each attacks of its own: "
            "other steps, restarts or norms, and autoattack in one only."
        )
