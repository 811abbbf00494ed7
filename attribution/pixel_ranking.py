"""Insertion and deletion of pixels in the order of a map, and contrasts between classes from the same masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..randomness import keyed_generator
from .path_gradients import blurred
from .perturbations import masked_probabilities
from .score import check_target


def ranked_masks(maps: Tensor, steps: int) -> Tensor:
    """Return masks (steps + 1, B, H, W), bool: True on the 0, 1/steps, … 1 of pixels with the largest values.

    Equal values come in the order of the pixels.
    """
    if steps < 1:
        raise RectifyError(f"Pixel ranking: steps is {steps}; give at least 1.")
    flat = maps.detach().flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    edges = (torch.arange(steps + 1, device=flat.device) * order.shape[1]).div(steps, rounding_mode="floor")
    return (rank < edges[:, None, None]).unflatten(2, maps.shape[1:])


@dataclass(frozen=True)
class PixelCurves:
    """Probabilities of the target (steps + 1, B) while pixels are revealed (insertion) or removed (deletion)."""

    insertion: Tensor
    deletion: Tensor

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, mean over images; higher is better."""
        return float(_area(self.insertion).mean())

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, mean over images; lower is better."""
        return float(_area(self.deletion).mean())

    @property
    def normalised_insertion(self) -> float:
        """How much of the way from the blurred image's probability to the image's is gone, on average over the curve.

        0.5 is a straight line. The sums over images are divided, so that an image whose probability hardly moves does
        not decide. NaN if the probability does not rise in the mean.
        """
        return _between(self.insertion, self.insertion[0], self.insertion[-1])

    @property
    def normalised_deletion(self) -> float:
        """The same on the way from the empty image's probability (0) to the image's (1); lower is better."""
        return _between(self.deletion, self.deletion[-1], self.deletion[0])


def insertion_deletion(
    model: nn.Module, images: Tensor, target: Tensor, maps: Tensor, steps: int = 16, chunk: int = 64
) -> PixelCurves:
    """Reveal pixels over a blurred image, and delete them to 0, in the order of the maps (Petsiuk et al. 2018).

    2·(steps + 1) forward passes an image. Raw areas follow the model's confidence, which moves with every epoch: over
    epochs use the normalised ones, beside those of `random_maps`.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        target: (B,) int64 classes to watch; keep them fixed over epochs.
        maps: (B, H, W), larger is more important.
        steps: points of a curve less one.
        chunk: images in one forward pass.

    Raises:
        RectifyError: maps of another size than the images, or as `input_gradient`.
    """
    _check_maps(maps, images)
    masks = ranked_masks(maps, steps)
    shown = masked_probabilities(model, images, masks, soft_background(images), chunk)
    check_target(target, images, shown.shape[2])
    removed = masked_probabilities(model, images, ~masks, chunk=chunk)
    place = target.long().to(shown.device)[None, :, None].expand(len(shown), -1, 1)
    return PixelCurves(shown.gather(2, place).squeeze(2), removed.gather(2, place).squeeze(2))


def soft_background(images: Tensor) -> Tensor:
    """Return the images blurred by a tenth of their height: shapes are gone and brightness is left."""
    flat = images.detach().flatten(0, 1)
    return blurred(flat, max(1.0, images.shape[-2] / 10)).unflatten(0, images.shape[:2])


def random_maps(images: Tensor) -> Tensor:
    """Return a random order of pixels as maps (B, H, W), the same for all images and calls: what chance achieves."""
    generator = keyed_generator("random_maps", device=images.device)
    one = torch.rand(images.shape[-2:], generator=generator, device=images.device)
    return one.expand(len(images), *one.shape)


Group = Sequence[int] | Tensor


def masking_contrast(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    group: Group,
    against: Group | None = None,
    levels: int = 9,
    chunk: int = 64,
) -> Tensor:
    """Return (B,) how much more masking a map's top pixels costs one group of classes than another.

    The mean over masking the top 10, 20, … 90 % (9 levels) of the mean fall of probability in `group`, less that in
    `against`. One class and none against it is pointwise, a group pointwise over a group, one class against one is the
    class contrast, two groups the group contrast: the four scores of reference frame and granularity (RFxG 2025). The
    two falls are subtracted. A group costs no more passes than a class.

    Args:
        group, against: classes of all images, or (B, n) of each.

    Raises:
        RectifyError: an empty group, a class outside, or maps of another size than the images.
    """
    _check_maps(maps, images)
    masks = ranked_masks(maps, levels + 1)[:-1]
    fall = masked_probabilities(model, images, ~masks, chunk=chunk)
    mean = (fall[0] - fall[1:]).mean(0)

    def of(classes: Group, name: str) -> Tensor:
        chosen = torch.as_tensor(classes, dtype=torch.int64, device=mean.device)
        if not chosen.numel() or int(chosen.min()) < 0 or int(chosen.max()) >= mean.shape[1]:
            raise RectifyError(
                f"masking_contrast: {name} is {chosen.tolist()}; give classes among 0 … {mean.shape[1] - 1}."
            )
        return mean.gather(1, chosen if chosen.ndim == 2 else chosen.expand(len(mean), -1)).mean(1)

    return of(group, "group") if against is None else of(group, "group") - of(against, "against")


def _check_maps(maps: Tensor, images: Tensor) -> None:
    if maps.shape != (images.shape[0], *images.shape[2:]):
        raise RectifyError(f"maps {tuple(maps.shape)} do not fit images {tuple(images.shape)}; make them (B, H, W).")


def _area(curve: Tensor) -> Tensor:
    """Trapezoids over [0, 1], (B,)."""
    return (curve[:-1] + curve[1:]).mean(0) / 2


def _between(curve: Tensor, low: Tensor, high: Tensor) -> float:
    way = (high - low).mean()
    return float((_area(curve) - low).mean() / way) if way > 1e-3 else float("nan")
