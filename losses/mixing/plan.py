"""What was drawn for a batch, apart from what is done with it: apply it anywhere, compute any loss under it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import RectifyError

PerSampleLoss = Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none")


@dataclass(frozen=True)
class MixedTarget:
    """The labels of the points in each mixture and their weights.

    Attributes:
        labels: (B, d) int64; column 0 holds the samples' own labels.
        weights: (B, d) float32, each row sums to 1.
    """

    labels: Tensor
    weights: Tensor

    def per_sample(self, logits: Tensor, base: PerSampleLoss = _cross_entropy) -> Tensor:
        """Return Σ_d w_d·ℓ(logits, label_d), (B,); `base` maps (logits, labels) to one loss per sample."""
        total = self.weights[:, 0] * base(logits, self.labels[:, 0])
        for d in range(1, self.labels.shape[1]):
            total = total + self.weights[:, d] * base(logits, self.labels[:, d])
        return total

    def loss(self, logits: Tensor, base: PerSampleLoss = _cross_entropy) -> Tensor:
        """Return the batch mean of `per_sample`."""
        return self.per_sample(logits, base).mean()

    def heavier(self) -> Tensor:
        """Return the label with the largest weight, (B,), the sample's own on a tie: what accuracy is counted on."""
        return self.labels.gather(1, self.weights.argmax(1, keepdim=True)).squeeze(1)


@dataclass(frozen=True)
class MixPlan:
    """Partners and weights of one batch, all on its device; nothing here depends on the images or labels themselves.

    `values[plan.partners]` lines up anything kept per sample (labels, stable indices) with the mixtures.

    Attributes:
        partners: (B, d) int64 positions in the batch; column 0 is the sample itself.
        label_weights: (B, d') float32 with d' ≤ d; labels of the remaining partners are left out of the loss.
        image_weights: (B, d) float32, one weight per point; exclusive with `mask`.
        mask: (B, 1, *spatial) float32 in [0, 1], the weight of the sample itself per pixel (d is 2).
    """

    partners: Tensor
    label_weights: Tensor
    image_weights: Tensor | None = None
    mask: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Return the mixture of a (B, ...) tensor, out of place and differentiable; a mask needs its spatial size.

        Raises:
            RectifyError: the tensor holds whole numbers, in which weights would round to 0.
        """
        if not x.is_floating_point():
            raise RectifyError(f"Images to mix are {x.dtype}; make them float first, such as images.float() / 255.")
        # lerp is x itself, bit for bit, at weight 1. index_select and lerp are several times faster on a CPU than
        # x[partner] and torch.where; writing into the partners' copy saves the second temporary.
        if self.mask is not None:
            return x.index_select(0, self.partners[:, 1]).lerp_(x, self.mask.to(x.dtype))
        assert self.image_weights is not None
        weights = self.image_weights.to(x.dtype).reshape(len(x), *[1] * (x.ndim - 1), -1)
        if self.partners.shape[1] == 2:
            return x.index_select(0, self.partners[:, 1]).lerp_(x, weights[..., 0])
        mixed = x * weights[..., 0]
        for d in range(1, self.partners.shape[1]):
            mixed = torch.addcmul(mixed, x.index_select(0, self.partners[:, d]), weights[..., d])
        return mixed

    def target(self, label: Tensor) -> MixedTarget:
        """Line up the labels (B,) with the mixtures."""
        return MixedTarget(label[self.partners[:, : self.label_weights.shape[1]]], self.label_weights)


def mask_plan(mask: Tensor, partner: Tensor, own_label_only: bool = False) -> MixPlan:
    """Build the plan of a mask (B, 1, *spatial): the label weight is the mask's realised mean.

    Args:
        partner: (B,) int64.
        own_label_only: keep the sample's own label with weight 1 (FMix's `reformulate`).
    """
    partners = torch.stack([torch.arange(len(partner), device=partner.device), partner], 1)
    if own_label_only:
        return MixPlan(partners, torch.ones(len(partner), 1, device=partner.device), mask=mask)
    realised = mask.flatten(1).mean(1)
    return MixPlan(partners, torch.stack([realised, 1 - realised], 1), mask=mask)
