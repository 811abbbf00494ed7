"""Checkpoints and early stopping must watch a value that is logged; said before the first epoch, not after it."""

from pytorch_lightning import Callback, LightningModule, Trainer

from ..errors import RectifyError, did_you_mean


class KnownMonitors(Callback):
    """At the end of the sanity check, refuse a `monitor` under `val/` that validation did not log.

    An observer that leaves the sanity check out says by `later_keys()` what it will log.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = [name for name in trainer.callback_metrics if name.startswith("val/")]
        if not trainer.sanity_checking or not logged:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            logged += getattr(callback, "later_keys", list)()
        for callback in callbacks:
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor.startswith("val/") and monitor not in logged:
                name, hint = type(callback).__name__, did_you_mean(monitor, logged)
                raise RectifyError(f"{name}: monitor is {monitor}, which is not logged.{hint}")
