"""h-calibration: monotone maps trained on the windowed gap, one of them chosen on the calibration set."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import RectifyError
from ..metrics import ClassWiseCalibrationError, NegativeLogLikelihood, TopLabelCalibrationError
from ..randomness import keyed_generator
from .calibration_map import CalibrationMap
from .monotone_maps import PiecewiseLinear, TemperatureMixture
from .temperature_scaling import best_inverse_temperature
from .whole_set import score_whole
from .windows import windowed_gap

Select = Literal["ece_class_wise", "ece_top_label", "nll"]


class HCalibration(CalibrationMap):
    """Order-preserving map with the least windowed gap, after the description of h-calibration (2025).

    Mixtures of temperatures and piecewise linear maps of several sizes are trained from the maximum-likelihood
    temperature with Adam on `windowed_gap`; plain temperature scaling is a candidate too. The candidate of the least
    `select` on the calibration set is kept. Predictions never change.

    Args:
        classes: K.
        steps: of Adam, for each candidate.
        lr: learning rate at the start, cosine to 0.
        window: neighbours on each side.
        mixtures: numbers of temperatures tried.
        segments: numbers of segments tried.
        select: what the choice goes by.
        batch: samples of a step; all if the set is smaller.
    """

    keeps_prediction = True
    segments: Tensor
    first: Tensor
    second: Tensor

    def __init__(
        self,
        classes: int,
        steps: int = 100,
        lr: float = 0.02,
        window: int = 100,
        mixtures: tuple[int, ...] = (4, 16),
        segments: tuple[int, ...] = (5, 20),
        select: Select = "ece_class_wise",
        batch: int = 2000,
    ):
        super().__init__(classes)
        if select not in ("ece_class_wise", "ece_top_label", "nll"):
            raise RectifyError(f"HCalibration: select is {select!r}; choose ece_class_wise, ece_top_label or nll.")
        if steps < 1 or batch < 2 or window < 1 or lr <= 0:
            raise RectifyError(
                f"HCalibration: steps {steps}, batch {batch}, window {window} and lr {lr} must be positive."
            )
        self.steps, self.lr, self.window, self.select, self.batch = steps, lr, window, select, batch
        self.candidates: list[tuple[Any, int]] = [(TemperatureMixture, parts) for parts in mixtures]
        self.candidates += [(PiecewiseLinear, count) for count in segments]
        size = max(1, *mixtures, *segments)
        self._declare(segments=(), first=(size,), second=(size,))

    def _fit(self, logits: Tensor, label: Tensor) -> None:
        inverse = best_inverse_temperature(logits, label)
        one = torch.ones(1, dtype=logits.dtype, device=logits.device)
        found: list[tuple[Any, list[Tensor]]] = [(TemperatureMixture, [inverse * one, one])]
        found += [(kind, self._trained(kind(size, inverse), logits, label)) for kind, size in self.candidates]
        with torch.no_grad():
            scores = [self._score(kind.apply(logits, *parameters), label) for kind, parameters in found]
        kind, parameters = found[int(torch.stack(scores).argmin())]
        first, second = (F.pad(each, (0, len(self.first) - len(each))) for each in (*parameters, 0 * one)[:2])
        self._keep(segments=one * len(parameters[0]) * (kind is PiecewiseLinear), first=first, second=second)

    def _trained(self, candidate: Any, logits: Tensor, label: Tensor) -> list[Tensor]:
        parameters = [parameter.clone().requires_grad_(True) for parameter in candidate.parameters]
        optimizer = torch.optim.Adam(parameters, self.lr)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        generator = keyed_generator("h_calibration", len(label))
        for _ in range(self.steps):
            pick = torch.randperm(len(label), generator=generator)[: self.batch].to(label.device)
            outcome = F.one_hot(label[pick], self.classes).to(logits.dtype)
            loss = windowed_gap(candidate.apply(logits[pick], *parameters).exp(), outcome, self.window)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        return [parameter.detach() for parameter in parameters]

    def _score(self, log_p: Tensor, label: Tensor) -> Tensor:
        kinds: dict[str, Any] = {
            "ece_class_wise": lambda: ClassWiseCalibrationError(self.classes),
            "ece_top_label": TopLabelCalibrationError,
            "nll": NegativeLogLikelihood,
        }
        return score_whole(kinds[self.select](), log_p, label)

    def _map(self, logits: Tensor) -> Tensor:
        first, second = self.first.to(logits.dtype), self.second.to(logits.dtype)
        if count := int(self.segments):  # 0 for a mixture, whose spare parts have no weight
            return PiecewiseLinear.apply(logits, first[:count])
        return TemperatureMixture.apply(logits, first, second)
