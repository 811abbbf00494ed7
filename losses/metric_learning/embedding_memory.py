"""Pairs of this batch with the embeddings of earlier batches."""

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RectifyError
from .embedding_loss import EmbeddingLoss, gather_embeddings


class EmbeddingMemory(EmbeddingLoss):
    """A loss over the pairs of a row with the last `size` embeddings of earlier batches, of all ranks, detached.

    Cross-batch memory, Wang et al. 2020, arXiv 1912.06798. It adds no pair inside the batch: list the loss itself
    beside it for those. The memory is the same on every rank and a buffer, so a resumed run goes on with it.

    Args:
        loss: one that takes references, e.g. `ThresholdConsistentMargin`.
        size: embeddings remembered.
        dimension: of the embedding; by default the backbone's output, `backbone.classes`.
    """

    name = "memory"
    embeddings: Tensor
    labels: Tensor
    written: Tensor

    def __init__(self, loss: EmbeddingLoss, size: int = 4096, dimension: int | None = None):
        super().__init__()
        if not getattr(loss, "references", False):
            raise RectifyError(
                f"EmbeddingMemory: {type(loss).__name__} takes no references; use ThresholdConsistentMargin."
            )
        if size < 1:
            raise RectifyError(f"EmbeddingMemory: size is {size}; it must be 1 or more.")
        self.loss, self.size = loss, size
        self._count: int | None = None  # `written` on the host, read once after a start or a restart
        self._ready = False
        if dimension is not None:
            self._allocate(dimension)
        self.register_load_state_dict_post_hook(_forget_count)

    def setup(self, backbone: nn.Module) -> None:
        self.loss.setup(backbone)
        if not self._ready:
            dimension = getattr(backbone, "classes", None)
            if not isinstance(dimension, int):
                raise RectifyError("EmbeddingMemory: set dimension, the size of the embedding.")
            self._allocate(dimension)

    def _allocate(self, dimension: int) -> None:
        self.register_buffer("embeddings", torch.zeros(self.size, dimension))
        self.register_buffer("labels", torch.full((self.size,), -1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._ready = True

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if not self._ready:
            raise RectifyError("EmbeddingMemory: set dimension, or call setup(backbone) first.")
        if self._count is None:
            self._count = int(self.written)
        # copies: the buffers change below, before the backward reads what the loss saved
        filled = min(self._count, self.size)
        past, past_labels = self.embeddings[:filled].clone(), self.labels[:filled].clone()
        loss = self.loss(embeddings, labels, past, past_labels, gather_references=False)
        self.terms = {**self.loss.terms, "filled": torch.full((), filled / self.size, device=embeddings.device)}
        if self.training:
            rows = gather_embeddings(embeddings.detach(), labels)
            self._remember(rows.embeddings[-self.size :], rows.labels[-self.size :], len(rows.labels))
        return loss

    def _remember(self, embeddings: Tensor, labels: Tensor, seen: int) -> None:
        assert self._count is not None
        first = self._count + seen - len(labels)
        place = (torch.arange(len(labels), device=labels.device) + first) % self.size
        self.embeddings[place] = embeddings.to(self.embeddings.dtype)
        self.labels[place] = labels
        self.written += seen
        self._count += seen


def _forget_count(module: Any, _: Any) -> None:
    module._count = None
