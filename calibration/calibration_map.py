"""The contract of a post-hoc map: fitted on the logits of a split that was not trained on, applied to any logits."""

from typing import Self

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from .cached_logits import CachedLogits


class CalibrationMap(nn.Module):
    """`fit(logits (n, K), label (n,))`, then `forward(logits)` gives calibrated logits (n, K).

    The soft-max of what `forward` returns are the calibrated probabilities, so the result can stand wherever logits
    stand. What is fitted are buffers: the map is saved and moved with the module that holds it.

    Args:
        classes: K.
    """

    keeps_prediction = False
    """Whether the largest logit stays the largest, for every input."""

    fitted: Tensor

    def __init__(self, classes: int):
        super().__init__()
        if classes < 2:
            raise RectifyError(f"{type(self).__name__}: classes is {classes}; give at least 2.")
        self.classes = classes
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, logits: Tensor, label: Tensor) -> Self:
        """Fit in float64, from any context (inference mode too); return self.

        Raises:
            RectifyError: see `CachedLogits.of`; or K differs.
        """
        data = CachedLogits.of(logits, label, type(self).__name__)
        self._check_classes(data.logits)
        with torch.inference_mode(False), torch.enable_grad():
            copy = CachedLogits(data.logits.clone(), data.label.clone())
            self.to(copy.logits.device)
            self._fit(copy.logits, copy.label)
        self.fitted = torch.ones_like(self.fitted)
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """Return calibrated logits (n, K), in float32 for half-precision ones: rounded back, two could become equal."""
        self._check_classes(logits)
        if not self.fitted:
            raise RectifyError(f"{type(self).__name__}: not fitted yet; call fit(logits, label), or load its state.")
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        with torch.autocast(wide.device.type, enabled=False):
            mapped = self._map(wide).to(wide.dtype)
            return keep_largest(mapped, wide) if self.keeps_prediction else mapped

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        raise NotImplementedError

    def _map(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def _declare(self, **shapes: tuple[int, ...]) -> None:
        """Make the buffers of what will be fitted, so that a new map has the names and shapes of a fitted one."""
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def _keep(self, **values: Tensor) -> None:
        """Store what was fitted."""
        for name, value in values.items():
            own = getattr(self, name)
            setattr(self, name, value.detach().to(own.dtype).reshape(own.shape).clone())

    def _check_classes(self, logits: Tensor) -> None:
        if logits.shape[-1] != self.classes:
            raise RectifyError(
                f"{type(self).__name__}: made for {self.classes} classes, got logits of {logits.shape[-1]}."
            )


def keep_largest(mapped: Tensor, logits: Tensor) -> Tensor:
    """Return mapped logits (..., K) of which the largest is where it is in `logits`, whatever rounding did.

    A map that keeps the order can make two nearly equal logits equal; the one that was larger then gets the next number
    above. Nothing else changes, and the gradient is that of `mapped`.
    """
    top = logits.argmax(-1, keepdim=True)
    with torch.no_grad():
        best = mapped.amax(-1, keepdim=True)
        above = torch.nextafter(best, torch.full_like(best, torch.inf)) - mapped.gather(-1, top)
        lift = torch.where(mapped.argmax(-1, keepdim=True) == top, torch.zeros_like(above), above)
    return mapped.scatter_add(-1, top, lift)


def floored_log(probability: Tensor, floor: Tensor) -> Tensor:
    """Return the log of probabilities (..., K) that are at least `floor`, then scaled to sum 1.

    Of K frequencies the sum is K at most, so none ends below floor/K. Maps that count can give exactly 0, for which a
    single such label makes the likelihood infinite.
    """
    kept = probability.clamp_min(floor.to(probability.dtype))
    return (kept / kept.sum(-1, keepdim=True)).log()
