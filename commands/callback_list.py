"""The callbacks of a run, as several configs listed them."""

from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.model_helpers import is_overridden


def last_of_a_kind(callbacks: Callback | list[Callback] | None) -> list[Callback]:
    """Return the callbacks without those that a later one replaces, in order.

    A config that adds `callbacks+` to one that lists the same callback changes its options. Callbacks that differ by
    their state key, such as reports on two threat models, stay beside each other; so do those without state.
    """
    listed = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    last = {_kind(callback): callback for callback in listed}
    kept = [callback for callback in listed if last[_kind(callback)] is callback]
    for name in sorted({type(callback).__name__ for callback in listed if callback not in kept}):
        rank_zero_info(f"trainer.callbacks: the later {name} replaces the earlier one.")
    return kept


def has_progress_bar(callbacks: list[Callback]) -> bool:
    return any(isinstance(callback, ProgressBar) for callback in callbacks)


def _kind(callback: Callback) -> Any:
    """What Lightning keeps a callback's state under; without state each callback is of its own kind."""
    return callback.state_key if is_overridden("state_dict", callback, Callback) else id(callback)
