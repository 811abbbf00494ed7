"""A sentence a map, beside the picture."""

from pytorch_lightning import Trainer
from torch import Tensor

from ..attribution.map_numbers import map_statistics
from ..attribution.verbalisation import describe_map
from ..files import atomic_path
from .figures import figure_path
from .panel import Panel


def descriptions(
    panel: Panel,
    captions: list[tuple[str, str, bool]],
    maps: dict[str, Tensor],
    before: dict[str, Tensor] | None = None,
    drifts: dict[str, Tensor] | None = None,
) -> list[str]:
    """Return a line a map: the sample's id, label, prediction, and what `describe_map` finds."""
    lines = []
    for method, values in maps.items():
        gini = map_statistics(values)["gini"].tolist()
        for place, (name, guess, _) in enumerate(captions):
            drift = (drifts or {}).get(method)
            old = None if drift is None or before is None else before[method][place].float()
            said = describe_map(values[place], gini[place], old, None if drift is None else float(drift[place]))
            lines.append(f"sample {panel.ids[place]} (label {name}, predicted {guess}), {method}: {said}")
    return lines


def log_descriptions(
    trainer: Trainer,
    key: str,
    step: int,
    panel: Panel,
    captions: list[tuple[str, str, bool]],
    maps: dict[str, Tensor],
    before: dict[str, Tensor],
    drifts: dict[str, Tensor],
) -> None:
    """Write `<run>/figures/<key>/step_….txt`, one line a map, and show it in loggers that take text (TensorBoard).

    Args:
        captions: as for `draw_saliency`.
        before: the maps of the last drawing by method, where there was one.
        drifts: their drift (n,).
    """
    lines = descriptions(panel, captions, maps, before, drifts)
    text = "\n".join(lines) + "\n"
    with atomic_path(figure_path(trainer, key, step).with_suffix(".txt")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for logger in trainer.loggers:
        write = getattr(getattr(logger, "experiment", None), "add_text", None)
        if callable(write):
            write(key, "  \n".join(lines), step)


def _captions(panel: Panel, logits: Tensor, names: list[str] | None) -> list[tuple[str, str, bool]]:
    def name(label: int) -> str:
        return str(names[label])[:16] if names is not None and label < len(names) else str(label)

    confidence, prediction = logits.softmax(1).max(1)
    return [
        (name(label), f"{name(guess)} {sure:.2f}", guess == label)
        for label, guess, sure in zip(panel.labels.tolist(), prediction.tolist(), confidence.tolist(), strict=True)
    ]
