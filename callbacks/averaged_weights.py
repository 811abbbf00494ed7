"""Lightning's own averaging of weights, which only callbacks listed before it see at the end of a validation."""

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from ..errors import RectifyError


def _check_averaged(trainer: Trainer, callback: Callback) -> None:
    """Refuse a run in which a callback would look at other weights than those that were validated.

    Raises:
        RectifyError: a WeightAveraging is listed before the callback: it has put the raw weights back by then.
    """
    listed = list(trainer.callbacks)  # type: ignore[attr-defined]
    for other in listed[: listed.index(callback)]:
        if isinstance(other, WeightAveraging) and trainer.state.fn == "fit":
            name, average = type(callback).__name__, type(other).__name__
            raise RectifyError(
                f"{name}: {average} stands before it in callbacks and puts the raw weights back before {name} looks at "
                f"the validated ones; list {name} first."
            )
