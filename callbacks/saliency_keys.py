"""What SaliencyMaps logs, how often, and whether a checkpoint can watch it."""

from collections.abc import Iterable, Mapping

from pytorch_lightning import Trainer

from ..attribution.methods import saliency_method
from ..errors import RectifyError, did_you_mean
from .panel_study import Row

PREFIX = "val/saliency/"
SENSITIVITY = f"{PREFIX}class_sensitivity/"
NUMBERS, CURVES = ("mass", "entropy", "gini"), ("insertion", "deletion")


def method_periods(methods: tuple[str, ...] | Mapping[str, int], slow: int) -> dict[str, int]:
    """Return the epochs between the maps of each method: as given, or 1, and `slow` for those of many passes.

    Raises:
        RectifyError: there is no such method, or its epochs are below 1.
    """
    periods: dict[str, int] = {}
    for name in methods:
        costly = saliency_method(name, "SaliencyMaps").passes > 128
        periods[name] = methods[name] if isinstance(methods, Mapping) else slow if costly else 1
        if periods[name] < 1:
            raise RectifyError(f"SaliencyMaps: methods has {name}: {periods[name]}; give epochs from 1 on.")
    return periods


def sensitivity_key(layer: str) -> str:
    """Return what stands for a layer below `val/saliency/`."""
    return f"class_sensitivity/{layer.removeprefix('backbone.').replace('.', '_')}"


def saliency_periods(
    rows: Iterable[Row], periods: dict[str, int], every: int, thorough: int, layers: list[str]
) -> dict[str, int]:
    """Return the epochs between values by key.

    Args:
        rows: the maps that are drawn.
        periods: epochs between the maps of each method.
        every, thorough: epochs between drawings and between the curves of insertion and deletion, 0 for none.
        layers: those whose sensitivity to the class is measured, as far as they are known.
    """
    keys = {f"{PREFIX}{name}": every for name in ("cost", *map(sensitivity_key, layers))}
    for row in rows:
        own = max(every, periods[row.method])
        keys |= {f"{PREFIX}{row.key}/{name}": own for name in (*NUMBERS, "drift")}
        if thorough:
            keys |= {f"{PREFIX}{row.key}/{name}": max(own, thorough) for name in CURVES}
            keys |= {f"{PREFIX}random/{name}": max(every, thorough) for name in CURVES}
    return keys


def check_watched(trainer: Trainer, periods: dict[str, int], layers_known: bool = True) -> None:
    """Refuse a callback that watches a key which is never logged, or not by every validation.

    Raises:
        RectifyError: Lightning keeps the last value, so the weights of another epoch would be judged by it.
    """
    if trainer.state.fn != "fit":
        return
    between = trainer.check_val_every_n_epoch or 1
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or not monitor.startswith(PREFIX):
            continue
        if monitor.startswith(SENSITIVITY) and not layers_known:
            continue  # the first batch tells
        name, period = type(callback).__name__, periods.get(monitor)
        if period is None:
            raise RectifyError(
                f"{name}: monitor is {monitor}, which SaliencyMaps does not log.{did_you_mean(monitor, periods)}"
            )
        if monitor.endswith("/drift"):
            raise RectifyError(
                f"{name}: monitor is {monitor}, which has no value at the first validation; watch another key."
            )
        if period > between:
            raise RectifyError(
                f"{name}: monitor is {monitor}, which SaliencyMaps measures every {period} epochs only, so other "
                "epochs would be judged by an old value; set every_n_epochs, thorough_every_n_epochs and the epochs in "
                "methods to 1."
            )
