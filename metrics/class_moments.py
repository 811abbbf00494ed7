"""Moments of features per class, and what they say of neural collapse."""

import torch
from torch import Tensor

from ..errors import RectifyError


class ClassMoments:
    """Counts, sums per class, and the sum of outer products of features (n, D): additive over batches and ranks.

    Args:
        classes: K.
        width: D. The state is K·(D + 1) + D² numbers, float64.
    """

    def __init__(self, classes: int, width: int, device: torch.device | str = "cpu"):
        self.classes, self.width = classes, width
        self.flat = torch.zeros(classes * (width + 1) + width * width, dtype=torch.float64, device=device)

    @property
    def count(self) -> Tensor:
        """(K,)."""
        return self.flat[: self.classes]

    @property
    def total(self) -> Tensor:
        """(K, D)."""
        return self.flat[self.classes : self.classes * (self.width + 1)].view(self.classes, self.width)

    @property
    def outer(self) -> Tensor:
        """(D, D)."""
        return self.flat[self.classes * (self.width + 1) :].view(self.width, self.width)

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor) -> None:
        """Add features (n, D) and labels (n,) int64."""
        features = features.double()
        self.count.index_add_(0, label, torch.ones_like(label, dtype=torch.float64))
        self.total.index_add_(0, label, features)
        self.outer.addmm_(features.T, features)

    @property
    def means(self) -> Tensor:
        """(K, D)."""
        return self.total / self.count.clamp_min(1)[:, None]

    @property
    def within(self) -> Tensor:
        """(D, D) covariance around the class means, over all samples."""
        return (self.outer - self.total.T @ self.means) / self.count.sum().clamp_min(1)


def collapse_scores(moments: ClassMoments, weight: Tensor) -> dict[str, Tensor]:
    """Return NC1 to NC3 (Papyan, Han and Donoho 2020); each is 0 at full collapse.

    - `nc1`: tr(Σ_W Σ_B⁺)/K, variation within classes relative to that between them;
    - `nc2_norm`: coefficient of variation of the norms of centred class means;
    - `nc2_angle`: standard deviation of their pairwise cosines around -1/(K - 1);
    - `nc3`: ‖W/‖W‖ - M/‖M‖‖_F of the classifier and the centred means.

    Args:
        moments: of at least two classes with samples; classes without any are left out.
        weight: (K, D) of the linear classifier.
    """
    kept = moments.count > 0
    classes = int(kept.sum())
    if classes < 2:
        raise RectifyError(f"Neural collapse needs samples of at least 2 classes; this split has {classes}.")
    means = moments.means[kept]
    centred = means - means.mean(0)
    between = centred.T @ centred / classes
    norms = centred.norm(dim=1)
    cosine = (centred @ centred.T) / (norms[:, None] * norms[None, :]).clamp_min(1e-30)
    pairs = cosine[~torch.eye(classes, dtype=torch.bool, device=cosine.device)]
    own = weight.double()[kept]
    # singular values of the K centred means: one is 0 up to rounding, its inverse must not count
    inverse = torch.linalg.pinv(between, hermitian=True, rtol=1e-10)
    return {
        "nc1": (moments.within @ inverse).trace() / classes,
        "nc2_norm": norms.std(correction=0) / norms.mean(),
        "nc2_angle": (pairs + 1 / (classes - 1)).square().mean().sqrt(),
        "nc3": (own / own.norm() - centred / centred.norm()).norm(),
    }


def nearest_mean_disagreement(features: Tensor, logits: Tensor, means: Tensor, kept: Tensor) -> Tensor:
    """Return (n,) bool, where the class of the nearest mean is not the predicted one (NC4 is its mean).

    Args:
        features: (n, D). logits: (n, K). means: (K, D). kept: (K,) bool, classes that have a mean.
    """
    distance = torch.cdist(features.double(), means)
    return distance.masked_fill(~kept, torch.inf).argmin(1) != logits.argmax(1)
