"""An embedding trained under any metric-learning objective and evaluated on classes it has never seen."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from ..backbones.backbone import Backbone
from ..errors import RectifyError
from ..losses.objective import Objective
from ..metrics import Deduplicator, EmbeddingCollector, RetrievalEvaluation
from ..metrics.operating_point import threshold_at_far
from ..metrics.operating_point_inconsistency import check_range
from .rectifier import Compile, Rectifier
from .schedules import Schedule

CALIBRATION_LOADER = 1


class Retriever(Rectifier):
    """Wraps a backbone whose output, scaled to length 1, is the embedding: `backbone.classes` is its size.

    Logs under `val/` and `test/`: `recall_at_<k>`, `map_at_r`, `r_precision`, `opis`, `epsilon_opis`, `eer`. Every
    evaluated image asks all others, unless batches carry `query` (B,) bool or `gallery_share` is set; then the queries
    ask the rest. Rows are gathered over ranks once and every sample counts once.

    A second test loader holds classes to calibrate on. The cosine at which their false accept rate is
    `calibrate_far` is logged as `test/threshold`, and what it gives on the test classes as `test/far_at_threshold`
    and `test/frr_at_threshold`.

    Evaluation steps return `{"embedding", "label", "index"}` without duplicates; `evaluation(loader)` is what they add
    up to at the end of an epoch, for callbacks to read.

    Args:
        calibrate_far: false accept rate that the threshold is fitted to.
        far: global false accept rates between which OPIS is taken.
        recall_at: cut-offs of Recall@k.
        gallery_share: share of each class that is the gallery of the rest; without it every image asks all others.
    """

    monitor = ("val/recall_at_1", "max")
    """What checkpoints are chosen by, unless the config says otherwise."""

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | LRSchedulerCallable | None = None,
        compile: Compile = False,
        calibrate_far: float = 0.05,
        far: tuple[float, float] = (0.01, 0.1),
        recall_at: tuple[int, ...] = (1, 2, 4, 8),
        gallery_share: float | None = None,
    ):
        super().__init__(backbone, objective, optimizer, schedule, compile)
        if not 0 < calibrate_far < 1:
            raise RectifyError(f"model.calibrate_far is {calibrate_far}; a false accept rate lies in (0, 1).")
        if gallery_share is not None and not 0 < gallery_share < 1:
            raise RectifyError(f"model.gallery_share is {gallery_share}; give a share in (0, 1), or null.")
        if not recall_at or min(recall_at) < 1:
            raise RectifyError(f"model.recall_at is {list(recall_at)}; give cut-offs of 1 or more.")
        check_range(far)
        self.calibrate_far = calibrate_far
        self._options = {"far": (far[0], far[1]), "ks": tuple(recall_at), "gallery_share": gallery_share}
        self._clear()

    def setup(self, stage: str) -> None:
        width, classes = getattr(self.backbone, "classes", None), getattr(self._data(), "classes", None)
        embeds = any(callable(getattr(part, "of_embeddings", None)) for part in self.objective.modules())
        if not embeds and isinstance(width, int) and isinstance(classes, int) and classes > width:
            name = type(self.objective).__name__
            raise RectifyError(
                f"model.objective: {name} classifies, and the embedding of {width} numbers cannot be the logits of "
                f"{classes} classes; use MetricLearning, or set backbone classes: ${{data.classes}}."
            )
        super().setup(stage)

    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def embed(self, image: Tensor) -> Tensor:
        """Return unit vectors (B, D) in float32."""
        return F.normalize(self(image).float(), dim=1)

    def on_validation_epoch_start(self) -> None:
        self._clear()

    def on_test_epoch_start(self) -> None:
        self._clear()

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return self._collect(batch, dataloader_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return self._collect(batch, dataloader_idx)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"embedding": self.embed(batch["image"]), "index": batch["index"]}

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:  # a few batches may hold one class
            self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def evaluation(self, loader: int = 0) -> RetrievalEvaluation | None:
        """Return what a loader's batches of this epoch add up to, None if there were none (every rank must call)."""
        if loader not in self._evaluations and loader in self._collected:
            self._evaluations[loader] = self._collected[loader].evaluation(**self._options)
        return self._evaluations.get(loader)

    def threshold(self) -> float | None:
        """Return the cosine fitted on the calibration classes of this test; None without them."""
        calibration = self.evaluation(CALIBRATION_LOADER)
        return None if calibration is None else threshold_at_far(calibration.histogram, self.calibrate_far)

    def _clear(self) -> None:
        self._seen: dict[int, Deduplicator] = {}
        self._collected: dict[int, EmbeddingCollector] = {}
        self._evaluations: dict[int, RetrievalEvaluation] = {}

    def _collect(self, batch: dict[str, Any], loader: int) -> dict[str, Tensor]:
        embedding = self.embed(batch["image"])
        keep = self._seen.setdefault(loader, Deduplicator()).keep(batch["index"])
        kept = {"embedding": embedding[keep], "label": batch["label"][keep], "index": batch["index"][keep]}
        query = batch["query"][keep] if "query" in batch else None
        self._collected.setdefault(loader, EmbeddingCollector()).add(*kept.values(), query)
        return kept

    def _log_scores(self, stage: str) -> None:
        evaluation = self.evaluation()
        if evaluation is None:
            return
        scores = dict(evaluation.scores)
        threshold = self.threshold() if stage == "test" else None
        if threshold is not None:
            far, frr = evaluation.rates_at(threshold)
            scores |= {"threshold": threshold, "far_at_threshold": far, "frr_at_threshold": frr}
        # equal on all ranks already
        self.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, prog_bar=stage == "val")
