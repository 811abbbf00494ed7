"""A gap without test samples and without retraining: what hyper-parameters may be chosen by."""

import torch

from ..errors import RectifyError
from .distances import average_gap
from .outputs import Outputs, checked_outputs, forgotten_classes, without_classes
from .report import ModelFigures


def proxy_gap(original: Outputs, unlearned: Outputs, seed: int = 0) -> float:
    """Return the Avg. Gap from what a retrained model is expected to do, judged on the validation set.

    A model that never saw the forget samples should treat them as it treats validation samples: UA and MIA_confidence
    are expected to be those of the original on `val`, RA and the validation accuracy those of the original. Samples of
    classes that are forgotten whole are expected at 100; if the request names others too, both expectations are mixed
    by their shares, and the validation samples are those of the classes that stay. A proxy: retraining on less data is
    a little worse than this. Test samples are not read.

    Args:
        original, unlearned: outputs with the splits `forget`, `retain` and `val`.

    Raises:
        RectifyError: no validation samples, or none of a class that stays.
    """
    now, then = (_validated(model, name) for name, model in (("unlearned", unlearned), ("original", original)))
    dropped = forgotten_classes(now["forget"]["label"], now["retain"]["label"])
    staying = without_classes(then["test"], dropped)
    if not len(staying["label"]):
        raise RectifyError(
            f"val has samples of the forgotten classes {dropped} alone, so that nothing can be expected of the others; "
            "take a larger validation split."
        )
    found, start = ModelFigures(now, dropped, seed).scores, ModelFigures(then, dropped, seed).scores
    label = now["forget"]["label"]
    gone = float(torch.isin(label, torch.tensor(dropped, dtype=label.dtype)).double().mean())
    unseen = ModelFigures({**then, "forget": staying}, dropped, seed).scores
    expected = {key: 100 * gone + (1 - gone) * unseen[key] for key in ("UA", "MIA_confidence")}
    return average_gap(found, {**expected, "RA": start["RA"], "TA": start["TA"]})


def _validated(outputs: Outputs, whose: str) -> dict[str, dict[str, torch.Tensor]]:
    """The splits to judge on, with validation samples in the place of test samples."""
    if "val" not in outputs:
        raise RectifyError(f"{whose}: the split val is missing; hyper-parameters are chosen on validation samples.")
    checked = checked_outputs({**outputs, "test": outputs["val"]}, whose)
    return {name: checked[name] for name in ("forget", "retain", "test")}
