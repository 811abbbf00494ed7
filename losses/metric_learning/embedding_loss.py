"""Losses of embeddings: what they share, and how their sums become those of one process."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...collectives import gather_rows, gather_rows_with_gradient, is_distributed, rank, row_counts, sum_over_ranks
from ...collectives import world_size as ranks
from ...errors import RectifyError
from ...metrics.sums import sum_type


class EmbeddingLoss(nn.Module):
    """A loss of embeddings (n, D) and labels (n,), the same scalar with the same gradient on any number of ranks.

    `forward(embeddings, labels) -> scalar`. Every rank calls it with its own rows (their number may differ). The value
    is that of all rows; the gradient is such that DDP's average over ranks is the gradient of one process.
    """

    name: ClassVar[str] = "loss"
    """Key of its value in the log, and prefix of its terms."""
    unit_vectors: ClassVar[bool] = True
    """Wants embeddings of length 1; otherwise the network's output as it is."""
    references: ClassVar[bool] = False
    """Also takes `reference_embeddings` and `reference_labels`, and `gather_references`."""

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor] = {}
        """Detached scalars of the last call, over all ranks."""

    def setup(self, backbone: nn.Module) -> None:
        """Build what depends on the backbone. Called once, before the optimizer."""


class Rows(NamedTuple):
    """Rows of all ranks.

    Attributes:
        embeddings: (N, D), with gradient.
        labels: (N,).
        start: where this rank's rows begin.
        counts: rows of each rank.
    """

    embeddings: Tensor
    labels: Tensor
    start: int
    counts: list[int]


def gather_embeddings(embeddings: Tensor, labels: Tensor) -> Rows:
    """Gather (n_r, D) embeddings with gradient and their labels, in rank order; n_r may differ."""
    if not is_distributed():
        return Rows(embeddings, labels, 0, [len(embeddings)])
    counts = row_counts(len(embeddings), embeddings.device)
    # the collective of the backward must run on every rank, so nothing is gathered with gradient where there is none
    gather = gather_rows_with_gradient if embeddings.requires_grad else gather_rows
    pieces = gather(embeddings, counts)
    return Rows(torch.cat(pieces), torch.cat(gather_rows(labels, counts)), sum(counts[: rank()]), counts)


class GlobalMeans(NamedTuple):
    """Means over all ranks.

    Attributes:
        means: (k,) with gradient; 0 where nothing was counted.
        counts: (k,) without.
    """

    means: Tensor
    counts: Tensor


def global_means(sums: Tensor, counts: Tensor) -> GlobalMeans:
    """Divide local sums (k,) by the counts (k,) of all ranks, in one collective.

    The value is the global mean; the gradient is that of W·local sum / global count, of which DDP takes the average.
    """
    exact = sum_type(sums.device)
    total, count = sum_over_ranks(torch.stack((sums.detach().to(exact), counts.to(exact)))).unbind()
    share = sums * (ranks() / count.clamp_min(1)).to(sums.dtype)
    return GlobalMeans(share + ((total / count.clamp_min(1)).to(sums.dtype) - share).detach(), count)


def check_rows(owner: str, embeddings: Tensor, labels: Tensor) -> None:
    """Raise RectifyError unless embeddings are (n, D) and labels (n,) integers; costs no host sync."""
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise RectifyError(
            f"{owner}: embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)} must be (n, D) and (n,)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise RectifyError(f"{owner}: labels are {labels.dtype}; give integers, labels.long().")


def check_unit(owner: str, embeddings: Tensor) -> None:
    """Raise RectifyError unless every row has length 1, to the precision of bfloat16 (one host sync)."""
    if not len(embeddings):
        return
    norm = embeddings.detach().double().norm(dim=1)
    away = norm[(norm - 1).abs().argmax()]
    if not abs(float(away) - 1) < 1e-2:  # a NaN is caught too
        raise RectifyError(
            f"{owner}: an embedding has length {float(away):.4g}; cosine is assumed, "
            "so pass normalize(embeddings, dim=1)."
        )


def full_precision(embeddings: Tensor) -> Tensor:
    """float32, or float64 if it is: cosines near a margin do not survive half precision."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()
