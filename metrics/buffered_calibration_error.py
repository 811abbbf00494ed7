"""The top-label calibration error with work put off until many samples wait for it."""

from typing import Any

import torch
from torch import Tensor

from ..errors import RectifyError
from .calibration_error import TopLabelCalibrationError
from .probabilities import check_forecast
from .reliability import Norm


class _Waiting:
    """Rows that wait, copied as they come: a caller may write over its logits after the update."""

    def __init__(self, rows: int, logits: Tensor):
        kind = torch.promote_types(logits.dtype, torch.float32)
        self.logits = torch.empty(rows, logits.shape[1], dtype=kind, device=logits.device)
        self.label = torch.empty(rows, dtype=torch.int64, device=logits.device)
        self.count = 0

    def takes(self, logits: Tensor) -> bool:
        """Whether rows of this width, type and device fit beside what is there."""
        own = self.logits
        if (
            self.count + logits.shape[0] > own.shape[0]
            or own.shape[1] != logits.shape[1]
            or own.device != logits.device
        ):
            return False
        return logits.dtype == own.dtype or torch.promote_types(logits.dtype, own.dtype) == own.dtype

    def add(self, logits: Tensor, label: Tensor) -> None:
        end = self.count + label.shape[0]
        self.logits[self.count : end] = logits
        self.label[self.count : end] = label
        self.count = end


class BufferedCalibrationError(TopLabelCalibrationError):
    """`TopLabelCalibrationError` that works on about `buffer` samples at a time; equal to it, faster on small batches.

    The samples that wait hold their logits, `buffer`·K numbers on this process; they are binned before anything reads,
    copies, reduces or saves the state, which is the same 3·bins sums.

    Args:
        bins, norm, debiased: as there.
        buffer: samples that may wait.
    """

    def __init__(self, bins: int = 15, norm: Norm = "l1", debiased: bool = False, buffer: int = 4096):
        super().__init__(bins, norm, debiased)
        if buffer < 1:
            raise RectifyError(f"buffer is {buffer}; give the number of samples that may wait, at least 1.")
        self.buffer = buffer
        self._waiting: _Waiting | None = None

    def update(self, logits: Tensor, label: Tensor) -> None:
        check_forecast(logits, label)
        waiting = self._waiting
        if waiting is None or not waiting.takes(logits):
            self.flush()
            # a first batch is binned at once: a MetricCollection compares states after it to find equal ones
            if self._update_count == 1 or label.shape[0] >= self.buffer:
                self.add(self.forecast(logits, label))
                return
            waiting = self._waiting
            if waiting is None or not waiting.takes(logits):
                waiting = self._waiting = _Waiting(self.buffer, logits)
        waiting.add(logits, label)
        if self._update_count == 1:
            self.flush()

    def flush(self) -> None:
        """Bin what waits."""
        waiting = self._waiting
        if waiting is not None and waiting.count:
            count, waiting.count = waiting.count, 0
            self.add(self.forecast(waiting.logits[:count], waiting.label[:count]))

    def compute(self) -> Tensor:  # type: ignore[override]
        self.flush()
        return super().compute()

    def reset(self) -> None:
        self._waiting = None
        super().reset()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        self.flush()
        return super().state_dict(*args, **kwargs)

    def merge_state(self, incoming_state: Any) -> None:
        self.flush()
        if isinstance(incoming_state, BufferedCalibrationError):
            incoming_state.flush()
        super().merge_state(incoming_state)

    def _copy_state_dict(self) -> dict[str, Any]:
        self.flush()
        return super()._copy_state_dict()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.flush()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return super().__getstate__()
