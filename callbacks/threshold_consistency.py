"""An observer: how well one threshold serves every class."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer

from ..collectives import rank, world_size
from ..errors import RectifyError
from ..metrics import Deduplicator, EmbeddingCollector, RetrievalEvaluation
from ..metrics.operating_point import class_rates, threshold_at_far
from ..metrics.operating_point_noise import opis_noise_floor
from .batches import forward_logits, image_batch
from .class_rates_table import ClassRow, write_class_rates
from .evaluated_batches import EvaluatedBatches, Stage
from .figure_moments import FigureMoments
from .figures import log_figure
from .query_panel import choose_worst_queries, worst_queries_figure
from .threshold_figures import class_rates_figure, det_figure, utility_figure

EVALUATED = (
    *(f"recall_at_{k}" for k in (1, 2, 4, 8)),
    *("map_at_r", "r_precision", "opis", "epsilon_opis", "eer", "classes_dropped"),
)  # of a `RetrievalEvaluation` with its default cut-offs


class ThresholdConsistency(EvaluatedBatches, FigureMoments):
    """Log and draw the consistency of an embedding at one threshold, synchronised over ranks.

    Logs `val/opis_at_recall` for checkpoints to minimise: OPIS where Recall@1 reaches `recall_floor`, and 1 plus what
    is missing to it where it does not. OPIS is at most 0.25, so an epoch above the floor always beats one below. In a
    test it logs `test/opis_noise_floor`, the OPIS that classes of these sizes would show if they were all alike
    (`opis_noise_floor`, an upper bound in the mean of 20 draws). With classes to calibrate on it logs
    `test/worst_class_far` and `test/worst_class_frr`, the means over the worst 10 % of classes at the fitted threshold,
    and writes every class's rates to `<run>/tables/test_class_rates.csv`.

    Draws `{stage}/det`, `{stage}/class_utility`, `{stage}/worst_queries` (if the data module has `images`) and, at a
    fitted threshold, `{stage}/class_rates`.

    It reads `pl_module.evaluation()` of a `Retriever`. In another module it calls `pl_module(image)` itself, scales the
    rows to length 1 and also logs `{stage}/opis`, `{stage}/recall_at_1` and the others.

    Args:
        recall_floor: Recall@1 a checkpoint must reach, in [0, 1).
        figure_every_n_epochs: epochs between validation figures, 0 for none but those of the test.
        queries: rows of the worst-query panel, 0 for none.
        calibrate_far: false accept rate of the fitted threshold, in modules other than `Retriever`, which has its own.
    """

    def __init__(
        self,
        recall_floor: float = 0.0,
        figure_every_n_epochs: int = 1,
        queries: int = 8,
        calibrate_far: float = 0.05,
    ):
        if not 0 <= recall_floor < 1:
            raise RectifyError(f"ThresholdConsistency: recall_floor is {recall_floor}; give a Recall@1 in [0, 1).")
        if figure_every_n_epochs < 0 or queries < 0:
            raise RectifyError(
                f"ThresholdConsistency: figure_every_n_epochs is {figure_every_n_epochs} and queries {queries}; "
                "give 0 or more."
            )
        if not 0 < calibrate_far < 1:
            raise RectifyError(f"ThresholdConsistency: calibrate_far is {calibrate_far}; a rate lies in (0, 1).")
        super().__init__(figure_every_n_epochs)
        self.recall_floor = recall_floor
        self.queries, self.calibrate_far = queries, calibrate_far
        self._scores: tuple[str, ...] = ()
        self._clear()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._scores = () if _evaluates_itself(pl_module) else EVALUATED

    def later_keys(self) -> list[str]:
        """What validations of a training log, but its sanity check does not."""
        return [f"val/{name}" for name in (*self._scores, "opis_at_recall")]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val", self._due(trainer))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "test", draw=True)

    def _clear(self) -> None:
        self._seen: dict[int, Deduplicator] = {}
        self._collected: dict[int, EmbeddingCollector] = {}
        self._unnamed = 0

    def _take(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, loader: int, stage: Stage
    ) -> None:
        if _evaluates_itself(pl_module) or trainer.sanity_checking:
            return
        own = image_batch(batch, "ThresholdConsistency")
        rows = F.normalize(forward_logits(trainer, pl_module, own.image, "ThresholdConsistency").float(), dim=1)
        index, label = own.index, own.label
        if index is None:  # without names every sample counts, and its place is its name
            index = (torch.arange(len(label), device=label.device) + self._unnamed) * world_size() + rank()
            self._unnamed += len(label)
        else:
            keep = self._seen.setdefault(loader, Deduplicator()).keep(index)
            rows, index, label = rows[keep], index[keep], label[keep]
        self._collected.setdefault(loader, EmbeddingCollector()).add(rows, label, index)

    def _report(self, trainer: Trainer, pl_module: LightningModule, stage: Stage, draw: bool) -> None:
        module: Any = pl_module
        if _evaluates_itself(module):
            evaluation, calibration = module.evaluation(), module.evaluation(1) if stage == "test" else None
            calibrate_far = module.calibrate_far
        else:
            made = {loader: collected.evaluation() for loader, collected in sorted(self._collected.items())}
            evaluation, calibration, calibrate_far = made.get(0), made.get(1), self.calibrate_far
        if evaluation is None:
            return
        scores = {} if _evaluates_itself(module) else dict(evaluation.scores)
        if stage == "val":
            scores["opis_at_recall"] = self._at_recall(evaluation.scores)
        threshold = None if calibration is None else threshold_at_far(calibration.histogram, calibrate_far)
        rates = None
        if threshold is not None:
            evaluated = evaluation.histogram.positives > 0
            rates = class_rates(evaluation.histogram.only(evaluated), threshold)
            scores |= {"worst_class_far": _worst(rates.far), "worst_class_frr": _worst(rates.frr)}
        if stage == "test":
            floor = opis_noise_floor(evaluation.histogram, evaluation.far, evaluation.c)
            scores["opis_noise_floor"] = float(floor.mean())
        # equal on all ranks already; sync_dist only keeps Lightning from warning that it might not be
        logged = {f"{stage}/{name}": value for name, value in scores.items()}
        pl_module.log_dict(logged, sync_dist=trainer.world_size > 1, rank_zero_only=False)
        if not draw:
            return
        _ = (
            evaluation.utility,
            evaluation.scores,
            calibration and calibration.scores,
        )  # collectives, before rank 0 draws
        if trainer.is_global_zero:
            self._draw(trainer, stage, evaluation, calibration, threshold, rates, calibrate_far)

    def _at_recall(self, scores: dict[str, float]) -> float:
        first = next(value for name, value in scores.items() if name.startswith("recall_at_"))
        recall = scores.get("recall_at_1", first)
        return scores["opis"] if recall >= self.recall_floor else 1 + self.recall_floor - recall

    def _draw(
        self,
        trainer: Trainer,
        stage: Stage,
        evaluation: RetrievalEvaluation,
        calibration: RetrievalEvaluation | None,
        threshold: float | None,
        rates: Any,
        calibrate_far: float,
    ) -> None:
        epoch, step = self._moment(trainer)
        where = f"{stage}, epoch {epoch}, step {step}"
        data: Any = getattr(trainer, "datamodule", None)
        known = getattr(data, "class_names", None)
        figure = det_figure(evaluation, f"DET, {where}", calibration, threshold, calibrate_far)
        log_figure(trainer, f"{stage}/det", figure, step)
        log_figure(trainer, f"{stage}/class_utility", utility_figure(evaluation, f"Utility by class, {where}"), step)
        if rates is not None and threshold is not None:
            names = [_name(known, label) for label in rates.classes.tolist()]
            overall = evaluation.rates_at(threshold)
            title = f"Rates by class at cosine {threshold:.3f}, {where}"
            log_figure(
                trainer,
                f"{stage}/class_rates",
                class_rates_figure(rates, overall, names, calibrate_far, title),
                step,
            )
            write_class_rates(trainer, stage, ClassRow.of(evaluation, rates, names))
        if self.queries and callable(getattr(data, "images", None)):
            worst = choose_worst_queries(evaluation, self.queries)
            rows = torch.cat((worst.query[:, None], worst.found), 1).cpu()
            pictures = data.images(evaluation.index.cpu()[rows.flatten()].numpy())
            labels = evaluation.labels.cpu()[rows].tolist()
            named = [[_name(known, label) for label in row] for row in labels]
            shaped = pictures.view(*rows.shape, *pictures.shape[1:]).numpy()
            title = f"Worst queries and what they found, {where}"
            log_figure(trainer, f"{stage}/worst_queries", worst_queries_figure(worst, shaped, named, title), step)


def _evaluates_itself(module: Any) -> bool:
    return callable(getattr(module, "evaluation", None)) and hasattr(module, "calibrate_far")


def _name(known: Any, label: int) -> str:
    return str(known[label]) if known is not None and label < len(known) else str(label)


def _worst(rates: torch.Tensor) -> float:
    return float(rates.sort(descending=True).values[: max(1, len(rates) // 10)].mean())
