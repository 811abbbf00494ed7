"""Metrics of soft-max forecasts, and the mistakes that would give them a wrong number without a word."""

from typing import Any

from torch import Tensor

from ..collectives import any_rank
from ..errors import RectifyError
from .probabilities import Forecast, are_probabilities, check_labels
from .sums import SumMetric

LOOKED_AT = 16  # rows: a few small logits may happen to sum to 1


class ForecastMetric(SumMetric):
    """A metric of `update(logits (n, K), label (n,))`, which reads its batches by `forecast`.

    The first 16 samples after a reset are looked at: probabilities in the place of logits would go through a second
    soft-max. That is said by `compute`, which waits for the device anyway.
    """

    classes: int | None = None
    """K, where the state depends on it."""

    hurried = False
    """Whether only the labels of those first samples are looked at: where an update is as short as a look."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._looked_at, self._as_probability = 0, True  # type: tuple[int, Tensor | bool]

    def forecast(self, logits: Tensor, label: Tensor) -> Forecast:
        """Return the batch as a forecast.

        Raises:
            RectifyError: what `Forecast.of` refuses, logits of another number of classes, or, on the CPU, a label
                outside the classes.
        """
        forecast = Forecast.of(logits, label)
        if self.classes is not None and logits.shape[1] != self.classes:
            raise RectifyError(
                f"{type(self).__name__}: made for {self.classes} classes, got logits of {logits.shape[1]}."
            )
        first = self._looked_at < LOOKED_AT
        if first or not self.hurried:
            check_labels(label, logits.shape[1])
        if first and len(label):
            self._as_probability = are_probabilities(forecast.logits) & self._as_probability
            self._looked_at += len(label)
        return forecast

    def reset(self) -> None:
        super().reset()
        self._looked_at, self._as_probability = 0, True

    def refuse_bad(self, values: Tensor) -> None:
        """Raise RectifyError if a sum is NaN or the logits were probabilities; for `compute`."""
        self.refuse_nan(values)
        found = bool(self._looked_at and self._as_probability)
        # where the sums are those of all ranks, all of them refuse: one that goes on would wait for the others for ever
        if any_rank(found) if self._is_synced else found:
            raise RectifyError(
                f"{type(self).__name__}: these are probabilities, which would go through a second soft-max; "
                "give the logits, or their logarithm."
            )


def refuse_probabilities(logits: Tensor, who: str) -> None:
    """Raise RectifyError if the logits of a batch, 16 samples or more, are probabilities; this waits for the device."""
    if len(logits) >= LOOKED_AT and are_probabilities(logits):
        raise RectifyError(
            f"{who}: these are probabilities, which would go through a second soft-max; give the logits, or their "
            "logarithm."
        )


def check_classes(classes: int, who: str) -> int:
    """Return `classes`, or raise RectifyError below 2."""
    if classes < 2:
        raise RectifyError(f"{who}: classes is {classes}; give at least 2.")
    return classes
