"""The three forms of a batch that forgets, read as one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import RectifyError

Part = dict[str, Any]


@dataclass(frozen=True)
class Portion:
    """Samples that pass the network together.

    Attributes:
        batch: a flat batch.
        forget: (B,) bool, which of them are to be forgotten.
        mixed: both kinds may be in it; otherwise all samples are of one kind, and `forgets` says which.
        forgets: samples to be forgotten may be in it.
    """

    batch: Part
    forget: Tensor
    mixed: bool
    forgets: bool


def portions(batch: dict[str, Any]) -> list[Portion]:
    """Return one portion for a step of one kind or a mixed step, and two (forget first) for a paired one.

    A mixed batch stays whole: no sample is picked out, so nothing is read back to the host and a rank without any
    sample to forget makes the same passes as the others.

    Raises:
        RectifyError: the batch says of no sample whether it is to be forgotten, or holds none at all.
    """
    if "image" in batch:
        if "forget" not in batch:
            raise _no_request()
        return [Portion(batch, batch["forget"].bool(), True, True)]
    if not {"forget", "retain"} & batch.keys():
        raise _no_request()
    found = []
    for name in ("forget", "retain"):
        part = batch.get(name)
        if part is not None:
            label = part["label"]
            marked = torch.full((len(label),), name == "forget", dtype=torch.bool, device=label.device)
            found.append(Portion(part, marked, False, name == "forget"))
    if not found:
        raise RectifyError("The unlearning step has neither a forget nor a retain part; give it at least one.")
    return found


def parts(batch: dict[str, Any]) -> tuple[Part | None, Part | None]:
    """Return (forget, retain) as flat batches, from any of the three forms.

    `{"forget": batch | None, "retain": batch | None}` is returned as it is. A mixed batch with a bool `forget` (B,) is
    split by it, which reads the counts back to the host and may leave a part with no samples on this rank only:
    objectives read `portions` instead.

    Raises:
        RectifyError: the batch says of no sample whether it is to be forgotten.
    """
    if "image" not in batch:
        if not {"forget", "retain"} & batch.keys():
            raise _no_request()
        return batch.get("forget"), batch.get("retain")
    if "forget" not in batch:
        raise _no_request()
    chosen = batch["forget"].bool()
    rows = {name: value for name, value in batch.items() if name != "forget"}
    return {name: v[chosen] for name, v in rows.items()}, {name: v[~chosen] for name, v in rows.items()}


def _no_request() -> RectifyError:
    return RectifyError(
        "The batch says of no sample whether it is to be forgotten, which unlearning objectives need; "
        "set --data.forget, e.g. class:3, fraction:0.1 or a file of keys."
    )
