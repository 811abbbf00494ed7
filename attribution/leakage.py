"""Whether a map gives away its label: the class-free value of what it keeps."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .perturbations import masked_probabilities
from .pixel_ranking import _check_maps, ranked_masks
from .score import check_target


@dataclass(frozen=True)
class Leakage:
    """Of each image, (B,), means over keeping the top 1/steps, 2/steps, … of pixels.

    Attributes:
        class_free: -KL(p(·|x) ‖ p(·|x_S)), at most 0: how well what is kept stands for the whole prediction.
        excess: how far the target's probability on what is kept goes beyond that on the image. An explanation that is
            surer of its label than the network is on the image tells the label, not the image.
    """

    class_free: Tensor
    excess: Tensor


def label_leakage(
    model: nn.Module, images: Tensor, target: Tensor, maps: Tensor, steps: int = 8, chunk: int = 64
) -> Leakage:
    """Measure what a map keeps without looking at one class only (after SHAP-KL, Jethani et al. 2023).

    Arguments and errors as for `insertion_deletion`; the pixels not kept are 0.
    """
    _check_maps(maps, images)
    kept = masked_probabilities(model, images, ranked_masks(maps, steps)[1:], chunk=chunk)
    check_target(target, images, kept.shape[2])
    whole, parts = kept[-1], kept[:-1] if steps > 1 else kept
    value = -(whole * (whole.clamp_min(1e-30).log() - parts.clamp_min(1e-30).log())).sum(2)
    place = target.long().to(kept.device)[:, None]
    excess = parts.gather(2, place.expand(len(parts), -1, 1)).squeeze(2) - whole.gather(1, place).squeeze(1)
    return Leakage(value.mean(0), torch.relu(excess).mean(0))
