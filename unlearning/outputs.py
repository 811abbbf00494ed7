"""What a model said of a split: the plain tensors that all audits read."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import RectifyError

Split = Mapping[str, Tensor]
"""`{"logits": (n, K), "label": (n,), "index": (n,)}`, each sample once; `index` is needed only to pair two models."""
Outputs = Mapping[str, Split]
"""A split by name: `forget`, `retain`, `test` and, if there is one, `val`."""

NEEDED = ("forget", "retain", "test")


def sorted_by_index(split: Split) -> dict[str, Tensor]:
    """Return the split in the order of its sample ids, on the CPU, so that two models can be paired by sample."""
    split = {name: value.detach().cpu() for name, value in split.items()}
    if "index" not in split:
        return split
    order = split["index"].argsort(stable=True)
    return {name: value[order] for name, value in split.items()}


def checked_outputs(outputs: Outputs, whose: str, like: Outputs | None = None) -> dict[str, dict[str, Tensor]]:
    """Return the splits sorted by sample id and on the CPU.

    Args:
        whose: the model's name in errors (`unlearned`).
        like: outputs of another model that must be of the same samples.

    Raises:
        RectifyError: a split is missing, empty, misshapen, holds a sample twice, or is not of the samples of `like`.
    """
    missing = [name for name in NEEDED if name not in outputs]
    if missing:
        raise RectifyError(f"{whose}: the split {missing[0]} is missing; evaluate forget, retain and test.")
    checked = {}
    for name, split in outputs.items():
        logits, label = split["logits"], split["label"]
        index = split.get("index", label)
        if logits.ndim != 2 or not label.shape == index.shape == logits.shape[:1] or not len(label):
            found = f"logits {tuple(logits.shape)} and label {tuple(label.shape)}"
            raise RectifyError(
                f"{whose}: {name} has {found}; logits (n, K) and labels (n,) of n > 0 samples are needed."
            )
        if int(label.min()) < 0 or int(label.max()) >= logits.shape[1]:
            classes = f"0 … {logits.shape[1] - 1}"
            raise RectifyError(f"{whose}: {name} has labels {int(label.min())} … {int(label.max())} outside {classes}.")
        split = checked[name] = sorted_by_index(split)
        if "index" in split and bool((split["index"].diff() == 0).any()):
            raise RectifyError(f"{whose}: {name} holds a sample twice; de-duplicate by index.")
        if like is not None and name in like and not _same_samples(split, like[name]):
            raise RectifyError(f"{whose}: {name} is not of the samples the unlearned model was evaluated on.")
    return checked


def _same_samples(split: Split, other: Split) -> bool:
    names = ("index", "label") if "index" in split and "index" in other else ("label",)
    return all(torch.equal(split[name], other[name]) for name in names)


def forgotten_classes(forget_label: Tensor, retain_label: Tensor) -> list[int]:
    """Return the classes of which every training sample is to be forgotten."""
    return sorted(set(forget_label.unique().tolist()) - set(retain_label.unique().tolist()))


def without_classes(split: Split, classes: list[int]) -> dict[str, Tensor]:
    """Return a split without the samples of some classes."""
    keep = ~torch.isin(split["label"], torch.tensor(classes, dtype=split["label"].dtype))
    return {name: value[keep] for name, value in split.items()}


def hits(split: Split) -> Tensor:
    """(n,) bool: the sample's most probable class is its label."""
    return split["logits"].argmax(1) == split["label"]
