"""AdaFace: a softmax over classes whose margin follows the quality of the image, read off the length of its feature."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...collectives import sum_over_ranks
from ...errors import RectifyError
from .embedding_loss import check_rows, full_precision, global_means
from .proxies import ProxyLoss
from .proxy_anchor import check_classes


class AdaFace(ProxyLoss):
    """Cross-entropy of scale·cosine to the classes, the target's cosine being cos(θ - m·z) - (m + m·z).

    z = clip(h·(‖x‖ - μ) / (σ + 1e-3), -1, 1) without gradient; ‖x‖ is the length of the feature, clipped to
    [1e-3, 100], so embeddings come as the network gives them. μ and σ are running statistics over the rows of *all*
    ranks. Kim et al. 2022, arXiv 2204.00964.

    Args:
        margin: m.
        concentration: h; 0 gives a fixed margin.
        scale: s.
        momentum: weight of the batch in the running μ and σ, in (0, 1]; 1 takes the batch alone.
    """

    name = "adaface"
    unit_vectors = False
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classes: int,
        dimension: int | None = None,
        margin: float = 0.4,
        concentration: float = 0.333,
        scale: float = 64.0,
        momentum: float = 0.01,
        learning_rate_scale: float = 1.0,
    ):
        super().__init__(classes, dimension, learning_rate_scale)
        if not 0 < momentum <= 1:
            raise RectifyError(f"AdaFace: momentum is {momentum}; it must lie in (0, 1].")
        if not scale > 0:
            raise RectifyError(f"AdaFace: scale is {scale}; it must be above 0.")
        self.margin, self.concentration, self.scale, self.momentum = margin, concentration, scale, momentum
        # the published starting values: lengths of features of a face network
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))
        self._checked = False

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_rows("AdaFace", embeddings, labels)
        if not self._checked:
            check_classes("AdaFace", labels, self.classes)
            self._checked = True
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = full_precision(embeddings)
            length = rows.detach().norm(dim=1).clamp(1e-3, 100)
            self._observe(length)
            quality = (self.concentration * (length - self.mean) / (self.std + 1e-3)).clamp(-1, 1)
            cosine = F.normalize(rows, dim=1) @ F.normalize(self.proxies.to(rows.dtype), dim=1).T
            cosine = cosine.clamp(-1 + 1e-3, 1 - 1e-3)  # the gradient of acos is infinite at ±1
            target = cosine.gather(1, labels[:, None]).squeeze(1)
            angle = (target.acos() - self.margin * quality).clamp(1e-3, torch.pi - 1e-3)
            moved = angle.cos() - self.margin * (1 + quality)
            logits = self.scale * cosine.scatter(1, labels[:, None], moved[:, None])
            lost = F.cross_entropy(logits, labels, reduction="sum")
            means, _ = global_means(lost[None], torch.full((1,), len(labels), device=labels.device))
        self.terms = {"norm_mean": self.mean.clone(), "norm_std": self.std.clone()}
        return means[0]

    def _observe(self, length: Tensor) -> None:
        """Move the running statistics of ‖x‖ towards the mean and the unbiased deviation over all ranks."""
        if not self.training:
            return
        exact = length.double() if length.device.type != "mps" else length
        first = sum_over_ranks(torch.stack((exact.sum(), torch.full_like(exact.sum(), len(length)))))
        mean = first[0] / first[1].clamp_min(1)
        spread = sum_over_ranks((exact - mean).square().sum()) / (first[1] - 1).clamp_min(1)
        self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
        self.std.lerp_(spread.sqrt().to(self.std.dtype), self.momentum)
