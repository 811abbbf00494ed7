"""Shadow models: trained once on random halves of the data, then shared by every method and attack."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RectifyError
from ..randomness import keyed_generator
from .member_scores import logit_margin


@dataclass(frozen=True)
class Shadows:
    """Margins of shadow models on the audited samples.

    Attributes:
        margin: (S, n) float64, `logit_margin` of each shadow on each sample.
        confidence: (S, n) float64 soft-max of the label.
        member: (S, n) bool, the shadow was trained on the sample.
    """

    margin: Tensor
    confidence: Tensor
    member: Tensor


def draw_members(count: int, samples: int, share: float = 0.5, seed: int = 0) -> Tensor:
    """Return (count, samples) bool: each sample is a member of round(share · count) shadows, which ones is random.

    A fixed number per sample (as in Carlini et al. 2022) leaves no sample without shadows on one side.
    """
    inside = round(share * count)
    if not 0 < inside < count:
        raise RectifyError(f"{count} shadows with share {share} leave a side without models; train more shadows.")
    order = torch.rand(samples, count, generator=keyed_generator(seed, "shadows")).argsort(1)
    return (order < inside).T.contiguous()


def train_shadows(
    train: Callable[[int, Tensor], Tensor], label: Tensor, count: int, share: float = 0.5, seed: int = 0
) -> Shadows:
    """Train `count` shadow models and keep what they say of every audited sample.

    Args:
        train: `train(seed, members)` trains on the samples at positions `members` (int64) with the given seed and
            returns logits (n, K) of all n audited samples, in order.
        label: (n,) labels of the audited samples.
        share: share of the shadows that are trained on a sample.
    """
    member = draw_members(count, len(label), share, seed)
    margins, confidences = [], []
    for shadow, mask in enumerate(member):
        logits = train(seed + shadow, mask.nonzero().flatten()).detach().cpu()
        if logits.shape[:1] != label.shape:
            raise RectifyError(
                f"train(seed, members) returned logits of {len(logits)} samples, {len(label)} are audited."
            )
        margins.append(logit_margin(logits, label))
        confidences.append(logits.double().softmax(1).gather(1, label[:, None]).squeeze(1))
    return Shadows(torch.stack(margins), torch.stack(confidences), member)
