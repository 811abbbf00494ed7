"""Top-label figures that need the order of confidences, from a fine histogram or, on request, from every sample."""

import torch
from torch import Tensor

from ..collectives import gather_rows
from ..errors import RectifyError
from .confidence_histogram import CELLS, ConfidenceHistogram, check_cells
from .equal_mass import equal_mass_bound, equal_mass_error
from .forecast_metric import ForecastMetric
from .kolmogorov_smirnov import ks_bound, ks_error
from .probabilities import check_bins
from .reliability import Norm
from .selective_risk import area_under_risk_coverage, best_area, risk_coverage_bound
from .smooth_calibration import smooth_bound, smooth_error
from .sums import sum_type


class ConfidenceMetric(ForecastMetric):
    """Base of metrics of a `ConfidenceHistogram`: `update(logits (n, K), label (n,))`.

    State: 3·cells numbers, reduced by sum; metrics of equal `cells` share it in a `MetricCollection`. `error_bound()`
    is a bound, computed from the same state, on the distance to the exact value.

    Args:
        cells: M, a power of two.
        exact: keep each sample's confidence and hit instead (2·N numbers, gathered from all ranks).
    """

    count: Tensor
    hits: Tensor
    confidence: Tensor
    every_confidence: list[Tensor]
    every_hit: list[Tensor]

    def __init__(self, cells: int = CELLS, exact: bool = False):
        # every sample is gathered by `state`: torchmetrics fails where a rank has none
        super().__init__(sync_on_compute=not exact)
        self.cells, self.exact = check_cells(cells), exact
        if exact:
            self.add_state("every_confidence", default=[], dist_reduce_fx="cat")
            self.add_state("every_hit", default=[], dist_reduce_fx="cat")
        else:
            self.add_sum("count", cells, dtype=torch.int64)
            self.add_sum("hits", cells, dtype=torch.int64)
            self.add_sum("confidence", cells)

    def update(self, logits: Tensor, label: Tensor) -> None:
        forecast = self.forecast(logits, label)
        if self.exact:
            self.every_confidence.append(forecast.confidence)
            self.every_hit.append(forecast.hit.long())
            return
        batch = ConfidenceHistogram.of(forecast, self.cells)
        self.count += batch.count
        self.hits += batch.hits
        self.confidence += batch.confidence

    def state(self) -> ConfidenceHistogram:
        """The histogram as it stands on this rank (inside `compute`, and always if exact: of all ranks)."""
        if not self.exact:
            self.refuse_bad(self.confidence)
            return ConfidenceHistogram(self.count, self.hits, self.confidence, 1 / self.cells)
        empty = torch.zeros(0, device=self.device)
        confidence, hit = (
            torch.cat(gather_rows(torch.cat([empty.to(kind), *(each.to(kind) for each in _pieces(held))])))
            for held, kind in (
                (self.every_confidence, sum_type(self.device)),
                (self.every_hit, torch.int64),
            )
        )
        if not len(confidence):
            raise RectifyError(f"{type(self).__name__}: compute before any update; pass logits and labels first.")
        self.refuse_bad(confidence)
        return ConfidenceHistogram.exact(confidence, hit)

    def error_bound(self) -> Tensor:
        """Largest distance of `compute()` from the exact value, over this rank's samples."""
        raise NotImplementedError


class KolmogorovSmirnovError(ConfidenceMetric):
    """Top-label KS calibration error (`ks_error`), in [0, 1]."""

    def compute(self) -> Tensor:
        return ks_error(self.state()).float()

    def error_bound(self) -> Tensor:
        return ks_bound(self.state())


class SmoothCalibrationError(ConfidenceMetric):
    """Top-label smooth calibration error with the reflected Gaussian (`smooth_error`), in [0, 1]."""

    def compute(self) -> Tensor:
        return smooth_error(self.state()).float()

    def error_bound(self) -> Tensor:
        return smooth_bound(self.state())


class EqualMassCalibrationError(ConfidenceMetric):
    """Top-label calibration error over bins of equally many samples (`equal_mass_error`).

    Args:
        bins: B.
        norm: `l1`, `l2` or `max`.
        cells, exact: as in `ConfidenceMetric`.
    """

    def __init__(self, bins: int = 15, norm: Norm = "l1", cells: int = CELLS, exact: bool = False):
        super().__init__(cells, exact)
        if norm not in ("l1", "l2", "max"):
            raise RectifyError(f"norm is {norm!r}; choose one of l1, l2, max.")
        self.bins, self.norm = check_bins(bins), norm

    def compute(self) -> Tensor:
        return equal_mass_error(self.state(), self.bins, self.norm).float()

    def error_bound(self) -> Tensor:
        return equal_mass_bound(self.state(), self.bins, self.norm)


class AreaUnderRiskCoverage(ConfidenceMetric):
    """AURC (`area_under_risk_coverage`): mean error rate over all coverages, in [0, 1]."""

    def compute(self) -> Tensor:
        return area_under_risk_coverage(self.state()).float()

    def error_bound(self) -> Tensor:
        return risk_coverage_bound(self.state())


class ExcessRiskCoverage(AreaUnderRiskCoverage):
    """E-AURC: AURC less that of the same errors in the best order; 0 if every error is less sure than every hit."""

    def compute(self) -> Tensor:
        data = self.state()
        return (area_under_risk_coverage(data) - best_area(data)).float()


def _pieces(held: list[Tensor] | Tensor) -> list[Tensor]:
    """A state of rows: a list while it grows, one tensor after metrics were merged."""
    return [held] if isinstance(held, Tensor) else held
