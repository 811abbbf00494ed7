"""What a network says to masked images: the passes that RISE, Sobol indices and masking measures share."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .score import check_target, logits_of


def masked_probabilities(
    model: nn.Module, images: Tensor, masks: Tensor, baseline: Tensor | float = 0.0, chunk: int = 64
) -> Tensor:
    """Return the probabilities (N, B, K) of every image under every mask.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        masks: (N, H, W) for all images, or (N, B, H, W); 1 keeps a pixel, 0 puts the baseline in its place.
        baseline: a value, or images that broadcast to (B, C, H, W).
        chunk: images in one forward pass.

    Raises:
        RectifyError: masks of another size than the images, or what `input_gradient` refuses.
    """
    if masks.shape[-2:] != images.shape[-2:]:
        raise RectifyError(
            f"masks are {tuple(masks.shape[-2:])} and images {tuple(images.shape[-2:])}; make them of one size."
        )
    found = []
    with frozen_eval(model):
        images = images.detach()
        start = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
        for part in masks.split(max(1, chunk // max(1, len(images)))):
            mask = (part[:, None] if part.ndim == 3 else part).unsqueeze(2).to(images.dtype)
            # one product where nothing stands in for the removed pixels: the masks are most of the memory traffic
            mixed = images * mask if isinstance(baseline, float) and baseline == 0 else start.lerp(images, mask)
            flat = mixed.expand(len(part), *images.shape).flatten(0, 1)
            pieces = [logits_of(model, piece).float().softmax(1) for piece in flat.split(chunk)]
            found.append(torch.cat(pieces).unflatten(0, (len(part), -1)))
    return torch.cat(found)


def target_probability(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Return the probability (B,) of the targets."""
    with frozen_eval(model):
        logits = logits_of(model, images.detach())
    check_target(target, images, logits.shape[1])
    return logits.float().softmax(1).gather(1, target.long()[:, None]).squeeze(1)


def upsampled_cells(cells: Tensor, size: Iterable[int]) -> Tensor:
    """Return masks (N, H, W) of (N, cells, cells), each cell constant."""
    return nn.functional.interpolate(cells[:, None], tuple(size), mode="nearest-exact").squeeze(1)


def of_target(by_class: Tensor, target: Tensor) -> Tensor:
    """Take maps (B, H, W) of the targets out of maps (B, K, H, W) of all classes."""
    check_target(target, by_class, by_class.shape[1])
    return by_class[torch.arange(len(target), device=by_class.device), target.long().to(by_class.device)]
