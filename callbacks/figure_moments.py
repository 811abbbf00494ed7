"""When an observer draws, and of which moment of training the weights it draws are."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class FigureMoments(Callback):
    """Base of observers that draw: says whether a validation is drawn, and the epoch and step to write on a figure.

    The first validation of a training is drawn, then each one that comes `every` epochs or more after the last one
    drawn, and the last one; so it does not matter how many epochs lie between two validations. Several validations in
    one epoch are drawn alike. In `validate` and `test` of a checkpoint epoch and step are those of the checkpoint.

    Args:
        every: epochs between figures, 0 for none while training.
    """

    def __init__(self, every: int):
        self._every = every
        self._last_drawn: int | None = None  # epoch of the last figure, kept in the checkpoint
        self._loaded: tuple[int, int] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._loaded = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":  # a resumed training counts for itself
            self._loaded = int(checkpoint.get("epoch", 0)), int(checkpoint.get("global_step", 0))

    def state_dict(self) -> dict[str, Any]:
        return {"last_drawn": self._last_drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_drawn = state_dict.get("last_drawn")

    def _moment(self, trainer: Trainer) -> tuple[int, int]:
        """Epoch and step of the weights at hand."""
        return self._loaded or (trainer.current_epoch, trainer.global_step)

    def _due(self, trainer: Trainer) -> bool:
        """Whether this validation is drawn; if so, it counts as the last one that was."""
        if trainer.state.fn != "fit" or not self._every:
            return bool(self._every)
        epoch, last = trainer.current_epoch, self._last_drawn
        if last is not None and 0 < epoch - last < self._every and not _is_last_validation(trainer):
            return False
        self._last_drawn = epoch
        return True


def _is_last_validation(trainer: Trainer) -> bool:
    """Whether training ends before the next validation, as far as that is settled."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return True
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    return 0 <= epochs <= trainer.current_epoch + (trainer.check_val_every_n_epoch or 1)
