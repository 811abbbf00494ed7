"""The share of training done, by optimizer step."""

import math


class Timeline:
    """Maps an optimizer step to progress in [0, 1]; what schedules and objectives go by.

    A run that resumes on another number of processes, or with another batch size, takes another number of steps for
    what is left: its timeline restarts from where it stands.

    Args:
        total: optimizer steps of the whole training, infinite if unknown (progress then stays 0).
    """

    def __init__(self, total: float = math.inf):
        self.total = total
        self._step, self._share, self._left = 0, 0.0, total

    def restart(self, step: int, share: float, left: float) -> None:
        """Go from `share` at `step` to 1 within `left` further steps."""
        self._step, self._share, self._left = step, share, max(1.0, left)

    def whole(self, total: float) -> None:
        """Go evenly from 0 to 1 over `total` steps."""
        self.total = max(1.0, total)
        self._step, self._share, self._left = 0, 0.0, self.total

    def progress(self, step: int) -> float:
        return min(1.0, self._share + (1 - self._share) * (step - self._step) / self._left)
