"""Losses of pytorch-metric-learning by their own names."""

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RectifyError, did_you_mean
from .embedding_loss import check_rows, full_precision, gather_embeddings


class LibraryLoss(nn.Module):
    """A loss of pytorch-metric-learning 2.9, e.g. `MultiSimilarityLoss`, with an optional miner of the same library.

    Args:
        loss: class name in `pytorch_metric_learning.losses`.
        arguments: plain values for its constructor.
        miner: class name in `pytorch_metric_learning.miners`.
        miner_arguments: plain values for its constructor.
    """

    def __init__(
        self,
        loss: str,
        arguments: dict[str, Any] | None = None,
        miner: str | None = None,
        miner_arguments: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.loss = _build("losses", loss, arguments or {})
        self.miner = None if miner is None else _build("miners", miner, miner_arguments or {})

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        return self.loss(embeddings, labels, chosen)


def _build(part: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        from pytorch_metric_learning import losses, miners
    except ImportError as error:
        raise RectifyError(
            f"LibraryLoss {name}: pytorch-metric-learning is missing; pip install 'lightning-rectify[metric-learning]'."
        ) from error
    module = losses if part == "losses" else miners
    known = [each for each in dir(module) if isinstance(getattr(module, each), type)]
    if name not in known:
        raise RectifyError(f"pytorch_metric_learning.{part} has no {name!r}.{did_you_mean(name, known)}")
    try:
        return getattr(module, name)(**arguments)
    except (TypeError, ValueError) as error:
        raise RectifyError(f"pytorch_metric_learning.{part}.{name}: {error}.") from error


def whole_batch(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Call any `loss(embeddings, labels)` on the rows of all ranks, on every rank, in float32.

    Exact for every loss, its parameters included, because DDP averages equal gradients; the price is that each rank
    does the work of all.
    """
    check_rows(type(loss).__name__, embeddings, labels)
    rows = gather_embeddings(embeddings, labels)
    with torch.autocast(embeddings.device.type, enabled=False):
        return loss(full_precision(rows.embeddings), rows.labels)
