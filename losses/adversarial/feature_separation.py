"""SRAT's regulariser: pull the features of a class together and push those of others away."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...collectives import gather_rows, gather_rows_with_gradient, global_mean_weight, is_distributed, rank, row_counts
from ...errors import RectifyError


class FeatureSeparation(nn.Module):
    """Supervised contrastive loss on the adversarial images' unit features (Khosla et al. 2020, L_out, one view).

    Features (B, D) are those before the head, gathered over ranks with their gradient. An anchor whose class has no
    other sample in the batch has no positive and is left out of the mean; with none left the loss is 0. In SRAT (Wang
    et al. 2022, arXiv 2107.13639) the tail classes of an imbalanced set seldom have two samples in a batch.

    Args:
        weight: its weight in the objective; 2 is published.
        temperature: τ > 0; 0.07 is published.
    """

    def __init__(self, weight: float = 2.0, temperature: float = 0.07):
        super().__init__()
        if not weight > 0:
            raise RectifyError(f"FeatureSeparation: weight is {weight}; it must be above 0, or leave the term out.")
        if not temperature > 0:
            raise RectifyError(f"FeatureSeparation: temperature is {temperature}; it must be above 0.")
        self.weight, self.temperature = weight, temperature

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        """Return a scalar whose gradient, averaged by DDP, is that of the mean over all ranks' anchors."""
        if features.dtype in (torch.bfloat16, torch.float16):
            features = features.float()
        unit = F.normalize(features, dim=1)
        counts = row_counts(len(unit), unit.device) if is_distributed() else [len(unit)]
        others = torch.cat(gather_rows_with_gradient(unit, counts))
        other_label = torch.cat(gather_rows(label, counts))
        own = torch.arange(len(unit), device=unit.device) + sum(counts[: rank()])
        itself = torch.arange(len(others), device=unit.device) == own[:, None]
        # the lowest number and not -inf: a batch of one has nothing else in its denominator
        with torch.autocast(
            unit.device.type, enabled=False
        ):  # it would multiply in a type that cannot hold that number
            similarity = (unit @ others.T / self.temperature).masked_fill(itself, torch.finfo(unit.dtype).min)
        log_share = similarity - torch.logsumexp(similarity, 1, keepdim=True)
        positive = (label[:, None] == other_label) & ~itself
        partners = positive.sum(1)
        anchor = -torch.where(positive, log_share, 0).sum(1) / partners.clamp_min(1)
        return anchor.sum() * global_mean_weight((partners > 0).sum(), unit.device)
