"""The objective that trains an embedding: a base loss and what is added to it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import RectifyError
from ..objective import Context, Objective, Step
from .embedding_loss import EmbeddingLoss, check_rows, full_precision, gather_embeddings
from .library_loss import whole_batch


class MetricLearning(Objective):
    """Base loss plus regularisers on the embeddings `backbone(image)`, normalised to length 1.

    The head's width is the size of the embedding. One process and several give the same loss and gradient, with ranks
    of different batch size too. Logs each loss under its name (`tcm`), its counts behind it (`tcm_positive_rate`).

    Args:
        base: one of ours (`ProxyAnchor`, `SmoothAP`, `RecallAtK`, `AdaFace`), `LibraryLoss`, or any module
            `(embeddings, labels) -> scalar` such as the losses of pytorch-metric-learning.
        regularizers: added with weight 1, e.g. `ThresholdConsistentMargin`; weights are arguments of their own.
    """

    def __init__(self, base: nn.Module, regularizers: Sequence[nn.Module] = ()):
        super().__init__()
        self.base = base
        self.regularizers = nn.ModuleList(regularizers)
        self._names = _distinct([base, *self.regularizers])
        self._checked = False

    @property
    def own_parameters(self) -> bool:  # type: ignore[override]
        return any(True for _ in self.parameters())

    def setup(self, backbone: nn.Module) -> None:
        for loss in (self.base, *self.regularizers):
            if isinstance(loss, EmbeddingLoss):
                loss.setup(backbone)

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        return self.of_embeddings(backbone(batch["image"]), batch["label"])

    def of_embeddings(self, embeddings: Tensor, labels: Tensor) -> Step:
        """Return the loss of raw embeddings (B, D) and labels (B,), for a network that has computed them already."""
        check_rows("MetricLearning", embeddings, labels)
        if not self._checked:
            self._check_pairs(embeddings, labels)
            self._checked = True
        raw = full_precision(embeddings)
        with torch.autocast(raw.device.type, enabled=False):
            unit = F.normalize(raw, dim=1)
        losses, terms = [], {}
        for name, loss in zip(self._names, (self.base, *self.regularizers), strict=True):
            if isinstance(loss, EmbeddingLoss):
                losses.append(loss(unit if loss.unit_vectors else raw, labels))
                terms.update({f"{name}_{key}": value for key, value in loss.terms.items()})
            else:
                losses.append(whole_batch(loss, unit, labels))
            terms[name] = losses[-1].detach()
        return Step(torch.stack(losses).sum(), terms=terms)

    def _check_pairs(self, embeddings: Tensor, labels: Tensor) -> None:
        """Stop at the first batch, of all ranks, that can teach nothing (one host sync)."""
        everywhere = gather_embeddings(embeddings.detach()[:, :0], labels).labels
        classes = len(everywhere.unique())
        if classes == 1:
            raise RectifyError(
                f"MetricLearning: the first batch of {len(everywhere)} images holds one class only; "
                "draw several classes per batch."
            )
        if classes == len(everywhere):
            raise RectifyError(
                f"MetricLearning: the first batch holds {classes} images of {classes} classes, no positive pair; "
                "draw several images per class, or enlarge data.batch_size."
            )


def _distinct(losses: Sequence[nn.Module]) -> list[str]:
    """Log names of losses; a second one of the same name gets a number."""
    names: list[str] = []
    for place, loss in enumerate(losses):
        default = "base" if place == 0 else type(loss).__name__.lower()
        name = loss.name if isinstance(loss, EmbeddingLoss) else default
        same = sum(other.rstrip("0123456789") == name for other in names)
        names.append(f"{name}{same + 1}" if same else name)
    return names
