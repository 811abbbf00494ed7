"""Streaming Gaussians of features, one a class, added up over batches and ranks."""

import torch
from torch import Tensor

from ..collectives import sum_over_ranks
from ..errors import RectifyError


class ClassGaussians:
    """Count, mean and covariance (unbiased) of features (n, D) per class, from float64 sums.

    The sums of x and x·xᵀ add up in any order, so the Gaussians of two ranks merged are those of all samples, which is
    what CCVR's equations 3 and 4 (Luo et al. 2021) compute from means and covariances.

    Args:
        classes: K.
        width: D. The state is K·(D² + D + 1) numbers.
    """

    def __init__(self, classes: int, width: int, device: torch.device | str = "cpu"):
        if classes < 2 or width < 1:
            raise RectifyError(f"ClassGaussians: classes {classes} and width {width}; give at least 2 and 1.")
        self.count = torch.zeros(classes, dtype=torch.float64, device=device)
        self.total = torch.zeros(classes, width, dtype=torch.float64, device=device)
        self.outer = torch.zeros(classes, width, width, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor) -> None:
        """Add features (n, D) and labels (n,) int64."""
        if features.ndim != 2 or features.shape[1] != self.total.shape[1] or label.shape != features.shape[:1]:
            raise RectifyError(
                f"ClassGaussians: features {tuple(features.shape)} and labels {tuple(label.shape)} must be "
                f"(n, {self.total.shape[1]}) and (n,)."
            )
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < len(self.count):
            raise RectifyError(
                f"ClassGaussians: labels reach from {label.min()} to {label.max()}, classes {len(self.count)}."
            )
        features = features.double()
        self.count.index_add_(0, label, torch.ones_like(label, dtype=torch.float64))
        self.total.index_add_(0, label, features)
        for k in label.unique().tolist():
            own = features[label == k]
            self.outer[k] += own.T @ own

    def reduce(self) -> "ClassGaussians":
        """Return the Gaussians of all ranks; every rank calls this."""
        merged = ClassGaussians(len(self.count), self.total.shape[1], self.count.device)
        merged.count, merged.total, merged.outer = map(sum_over_ranks, (self.count, self.total, self.outer))
        return merged

    @property
    def mean(self) -> Tensor:
        """(K, D)."""
        return self.total / self.count.clamp_min(1)[:, None]

    @property
    def covariance(self) -> Tensor:
        """(K, D, D); zero for a class with one sample."""
        centred = self.outer - self.total[:, :, None] * self.mean[:, None, :]
        return centred / (self.count - 1).clamp_min(1)[:, None, None]

    def sample(self, each: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `each` virtual features of every class that has samples, (m, D) float64, and labels (m,).

        A covariance of fewer samples than dimensions is singular: its eigenvalues below 0 count as 0.

        Raises:
            RectifyError: a feature was NaN or infinite.
        """
        if not self.outer.isfinite().all():
            raise RectifyError("ClassGaussians: some features were NaN or infinite; the network has diverged.")
        kept = torch.nonzero(self.count)[:, 0]
        value, vector = torch.linalg.eigh(self.covariance[kept])
        root = vector * value.clamp_min(0).sqrt()[:, None, :]
        shape = (len(kept), each, self.total.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device).to(root.device)
        features = self.mean[kept][:, None] + noise @ root.mT
        return features.flatten(0, 1), kept.repeat_interleave(each)
