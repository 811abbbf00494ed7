"""An observer: how far the network's confidence is from its accuracy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from ..errors import RectifyError
from ..metrics import CalibrationSums, Deduplicator
from ..metrics.calibration_sums import LOGGED, CalibrationResult
from ..metrics.forecast_metric import refuse_probabilities
from ..metrics.probabilities import check_bins, check_forecast
from .batches import forward_logits, image_batch, step_logits
from .calibration_comparison import CalibrationComparison
from .calibration_record import CalibrationRecord, record_name
from .evaluated_batches import EvaluatedBatches, Stage
from .figure_moments import FigureMoments
from .figures import log_figure
from .reliability_figure import draw_reliability


class CalibrationReport(EvaluatedBatches, FigureMoments):
    """Log calibration and draw a reliability diagram, synchronised over ranks.

    Logs every score of `CalibrationSums` under `{stage}/`, for `val` and `test`: top-label calibration errors (binned
    with a bootstrap interval, debiased, equal-mass, smooth, KS), class-wise error, signed gap, over- and
    under-confidence, NLL, the Brier score and its parts, AURC and E-AURC, and N and the bins behind them
    (docs/log_keys.md has the table); with several loaders each but the first adds `/dataloader_<i>`. The diagram is
    drawn from the reduced sums, so it shows what is logged. Its key is `{stage}/reliability`.

    When a training, a validation or a test ends, the sums and scores of its first loader are written to
    `<run>/calibration_{stage}.json`; with `compare_with`, a figure of them beside those of earlier runs has the key
    `{stage}/reliability_compared`. Files are read, and refused, before training.

    It reads `logits` and `label` of the evaluation step's output, taken as they are (our `Classifier` returns each
    sample once). In a module whose steps return no logits it calls `pl_module(image)` itself, and counts each sample
    once if the batch has an `index`. Sanity-check batches do not count.

    Args:
        bins: equal-width confidence bins; the last one is closed, so a confidence of exactly 1 belongs to it.
        stages: where to report.
        figure_every_n_epochs: epochs between validation diagrams, 0 for none but that of the test; the first and the
            last validation are drawn in any case.
        compare_with: earlier runs, name -> run folder or one of its `calibration_{stage}.json`. They must have the same
            bins and classes, and folders every stage that is reported.
        name: of this run in the comparison; by default that of its folder.
    """

    def __init__(
        self,
        bins: int = 15,
        stages: tuple[Stage, ...] = ("val", "test"),
        figure_every_n_epochs: int = 1,
        compare_with: Mapping[str, str | Path] | None = None,
        name: str | None = None,
    ):
        if not stages or set(stages) - {"val", "test"}:
            raise RectifyError(f"CalibrationReport: stages is {list(stages)}; choose among val and test.")
        if figure_every_n_epochs < 0:
            raise RectifyError(f"CalibrationReport: figure_every_n_epochs is {figure_every_n_epochs}; give 0 or more.")
        super().__init__(figure_every_n_epochs)
        self.bins = check_bins(bins)
        self.stages = tuple(stages)
        self.figure_every_n_epochs = figure_every_n_epochs
        self.compare_with, self.name = dict(compare_with or {}), name
        self._sums: dict[int, CalibrationSums] = {}
        self._seen: dict[int, Deduplicator] = {}
        self._loaders = 1
        self._comparison: CalibrationComparison | None = None
        self._latest: tuple[CalibrationResult, int, Stage, int, int] | None = None  # classes; epoch and step last

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        own = {"validate": ("val",), "test": ("test",)}.get(stage, ("val", "test"))
        wanted = tuple(each for each in self.stages if each in own)
        if not self.compare_with or not wanted:
            self._comparison = None
            return
        name = self.name or Path(trainer.default_root_dir).resolve().name
        self._comparison = CalibrationComparison(self.compare_with, name, wanted, self.bins)
        classes = getattr(getattr(pl_module, "backbone", None), "classes", None)
        if isinstance(classes, int):  # in other modules the first logits tell
            self._comparison.check_classes(classes)

    def later_keys(self) -> list[str]:
        """What validations of a training log, but its sanity check does not."""
        tails = ["", *(f"/dataloader_{loader}" for loader in range(1, self._loaders))]
        return [f"val/{name}{tail}" for tail in tails for name in LOGGED] if "val" in self.stages else []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()
        self._loaders = len(trainer.num_val_batches)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "val", draw=not trainer.sanity_checking and self._due(trainer))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "test", draw=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(trainer)

    def _clear(self) -> None:
        self._sums.clear()
        self._seen.clear()

    def _take(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, loader: int, stage: Stage
    ) -> None:
        if stage not in self.stages:
            return
        found = step_logits(outputs)
        if found is None:
            own = image_batch(batch, "CalibrationReport")
            logits, label = forward_logits(trainer, pl_module, own.image, "CalibrationReport"), own.label
            if own.index is not None:
                keep = self._seen.setdefault(loader, Deduplicator()).keep(own.index)
                logits, label = logits[keep], label[keep]
        else:
            logits, label = found
        check_forecast(logits, label)
        if self._comparison is not None and loader == 0:
            self._comparison.check_classes(logits.shape[1])
        if trainer.sanity_checking:  # counts for nothing, but tells before any epoch what the logits are
            refuse_probabilities(logits, "CalibrationReport")
            return
        if loader not in self._sums:
            self._sums[loader] = CalibrationSums(logits.shape[1], self.bins).to(logits.device)
        self._sums[loader].update(logits, label)

    def _report(self, trainer: Trainer, pl_module: LightningModule, stage: Stage, draw: bool) -> None:
        for loader, sums in sorted(self._sums.items()):
            result = sums.compute()
            if loader == 0:
                self._latest = result, sums.classes, stage, *self._moment(trainer)
            tail = f"/dataloader_{loader}" if loader else ""
            # equal on all ranks already; sync_dist only keeps Lightning from warning that it might not be
            scores = {f"{stage}/{name}{tail}": value for name, value in result.scores.items()}
            pl_module.log_dict(scores, sync_dist=trainer.world_size > 1, rank_zero_only=False)
            if draw and trainer.is_global_zero:
                key = f"{stage}/reliability{tail}"
                epoch, step = self._moment(trainer)
                where = f"{stage}{tail}, epoch {epoch}, step {step}"
                log_figure(trainer, key, draw_reliability(result.reliability, where, result.scores), step)
        self._clear()

    def _leave(self, trainer: Trainer) -> None:
        """Write the record of the evaluation that was last, and draw it beside those of earlier runs."""
        latest, self._latest = self._latest, None
        if latest is None or not trainer.is_global_zero:
            return
        record = CalibrationRecord.of(*latest)
        record.write(Path(trainer.default_root_dir) / record_name(record.stage))
        figure = None if self._comparison is None else self._comparison.draw(record)
        if figure is not None:
            log_figure(trainer, f"{record.stage}/reliability_compared", figure, record.step)
