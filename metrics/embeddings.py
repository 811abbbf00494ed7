"""Metrics of embeddings: rows kept per rank, checked as they come, gathered once."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric

from ..collectives import gather_rows
from ..errors import RectifyError


class EmbeddingMetric(Metric):
    """A metric of unit vectors (n, D) and integer labels (n,): `update` keeps this rank's rows.

    `compute` gathers the rows of all ranks and divides the pairs among the ranks, so every rank must call it. Count
    every sample once (`Deduplicator`): a sample that comes twice is a pair with itself.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)  # counts are summed in compute; a second gathering would double them
        self.add_state("embeddings", default=[], dist_reduce_fx=None)
        self.add_state("labels", default=[], dist_reduce_fx=None)

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        check_embeddings(type(self).__name__, embeddings, labels)
        self.embeddings.append(embeddings.detach().float())
        self.labels.append(labels.detach().long())

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings (N, D) and labels (N,) of all ranks, the same on every rank."""
        if not self.embeddings:
            raise RectifyError(f"{type(self).__name__}: compute before any update; pass embeddings and labels first.")
        embeddings, labels = torch.cat(self.embeddings), torch.cat(self.labels)
        return torch.cat(gather_rows(embeddings)), torch.cat(gather_rows(labels))


def check_embeddings(owner: str, embeddings: Tensor, labels: Tensor) -> None:
    """Raise RectifyError unless embeddings are unit vectors (n, D) and labels integers (n,)."""
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise RectifyError(
            f"{owner}: embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)} must be (n, D) and (n,)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise RectifyError(f"{owner}: labels are {labels.dtype}; give integers, labels.long().")
    if not len(embeddings):
        return
    norm = embeddings.detach().double().norm(dim=1)
    away = float(norm[(norm - 1).abs().argmax()])
    if not abs(away - 1) < 1e-2:  # a NaN is caught too; the tolerance is bfloat16's
        raise RectifyError(
            f"{owner}: an embedding has length {away:.4g}; cosine is assumed, so pass normalize(embeddings, dim=1)."
        )


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 in matrix products: TF32 or bfloat16 moves pairs across thresholds."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
