"""DiffROAR: do maps rank the pixels a network can be trained on above those it cannot?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import RectifyError
from ..randomness import keyed_generator
from .pixel_ranking import _check_maps

Accuracy = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class DiffRoar:
    """By share of pixels kept: accuracies when trained and tested on the top and on the bottom of the maps.

    Attributes:
        kept: shares.
        top, bottom: accuracies in [0, 1].
    """

    kept: tuple[float, ...]
    top: tuple[float, ...]
    bottom: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean difference of the accuracies; above 0 the maps rank discriminative pixels higher."""
        pairs = list(zip(self.top, self.bottom, strict=True))
        return sum(top - bottom for top, bottom in pairs) / len(pairs)


def diff_roar(
    images: Tensor,
    maps: Tensor,
    train: Callable[[Tensor], Accuracy],
    test: Tensor,
    test_maps: Tensor,
    test_label: Tensor,
    kept: Sequence[float] = (0.1, 0.3, 0.5),
    fill: float | Tensor | Literal["others"] | None = None,
    mask_only: bool = False,
) -> DiffRoar:
    """Train anew on images of which only the top or the bottom pixels of the maps are left (Shah et al. 2021).

    Maps of the label may give it away by which pixels they keep, whatever is in them. On a constant fill, the default
    and the paper's, a network can read it off the mask. `fill="others"` hides the mask; `mask_only` measures it.

    Args:
        images: (N, C, H, W) training images.
        maps: (N, H, W) of the training images; magnitudes are ranked.
        train: `images -> accuracy`, where `accuracy(images, label)` scores the fresh network; the labels are its own.
        test, test_maps, test_label: the same of the test images.
        kept: shares of pixels left, in (0, 1).
        fill: value of the removed pixels, or one a channel (C, 1, 1); the training images' mean by default. With
            `others` an image gets them from a training image drawn for it.
        mask_only: keep the pixels not of the image but of a training image drawn for it. An accuracy above chance is
            then the mask's.

    Raises:
        RectifyError: a share outside (0, 1), or maps that do not fit.
    """
    for share in kept:
        if not 0 < share < 1:
            raise RectifyError(f"diff_roar: kept has {share}; give shares in (0, 1).")
    _check_maps(maps, images)
    _check_maps(test_maps, test)
    if isinstance(fill, str):
        if fill != "others":
            raise RectifyError(f"diff_roar: fill is {fill!r}; give a value, others, or nothing for the mean.")
        fills = _drawn(images, len(images), "fill"), _drawn(images, len(test), "test fill")
    else:
        value = images.mean((0, 2, 3)).view(-1, 1, 1) if fill is None else torch.as_tensor(fill, dtype=images.dtype)
        fills = value, value
    if mask_only:
        images, test = _drawn(images, len(images), "kept"), _drawn(images, len(test), "test kept")
    found: dict[bool, list[float]] = {True: [], False: []}
    for share in kept:
        for best in (True, False):
            score = train(keep_pixels(images, maps, share, fills[0], best))
            found[best].append(score(keep_pixels(test, test_maps, share, fills[1], best), test_label))
    return DiffRoar(tuple(kept), tuple(found[True]), tuple(found[False]))


def keep_pixels(images: Tensor, maps: Tensor, share: float, fill: Tensor, best: bool = True) -> Tensor:
    """Return images with only the share of pixels left whose maps have the largest (or smallest) magnitude.

    The others become `fill`, a value or anything that broadcasts to (N, C, H, W).
    """
    flat = maps.abs().flatten(1)
    count = max(1, round(share * flat.shape[1]))
    chosen = flat.argsort(dim=1, descending=best, stable=True)[:, :count]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).unflatten(1, maps.shape[1:])
    return torch.where(mask[:, None], images, fill.to(images.dtype))


def _drawn(images: Tensor, count: int, use: str) -> Tensor:
    """Training images drawn with replacement: the same for both ends of a map, others for each use."""
    return images[torch.randint(len(images), (count,), generator=keyed_generator("diff_roar", use)).to(images.device)]
