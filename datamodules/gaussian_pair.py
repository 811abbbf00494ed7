"""Two classes that overlap by a known amount: Gaussian images whose posterior is known."""

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import RectifyError
from ..randomness import keyed_generator
from .sources import Source

CENTRE, LEVELS = 128, 30  # grey level of the value 0, and levels a standard deviation: ±4.2 fit into a byte


def two_gaussians(
    samples: int, gap: float, shape: tuple[int, ...] = (3, 10, 10), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return images (n, *shape) with unit variance around 0 or `gap` in every pixel, and their labels (n,).

    The set of the d-Mixup study (Chidambaram and Ge 2024), which uses gaps 0.05, 0.1 and 0.25; the values are not
    limited to [0, 1]. Both classes have half the samples, in turn.
    """
    if samples < 2 or not math.isfinite(gap):
        raise RectifyError(f"two_gaussians: samples {samples} and gap {gap}; give at least 2 and a finite gap.")
    label = torch.arange(samples) % 2
    noise = torch.randn(samples, *shape, generator=keyed_generator("two_gaussians", seed))
    return noise + gap * label.view(-1, *[1] * len(shape)), label


def true_logits(image: Tensor, gap: float) -> Tensor:
    """Return the logits (n, 2) of the true posterior: 0, and gap·Σx - pixels·gap²/2."""
    flat = image.flatten(1)
    odds = gap * flat.sum(1) - flat.shape[1] * gap**2 / 2
    return torch.stack((torch.zeros_like(odds), odds), 1)


def bayes_error(gap: float, pixels: int) -> float:
    """The least possible error rate, Φ(-gap·√pixels/2)."""
    return 0.5 * math.erfc(abs(gap) * math.sqrt(pixels) / 2 / math.sqrt(2))


def gaussian_source(
    gap: float = 0.1, samples: int = 5000, test_samples: int = 10_000, size: int = 10, channels: int = 3, seed: int = 0
) -> Source:
    """Return the set of `two_gaussians` as images (size, size, channels) uint8: grey level 128 + 30·value.

    `mean: [0.50196]` and `std: [0.117647]` in a config give the values back. Rounding adds 1/12 of a level's square to
    the variance, so the least possible error is that of a gap 0.005 % smaller; up to a gap of 0.25 fewer than one value
    in 20,000 is clipped.

    Args:
        gap: between the means, in every pixel, at most 1; with `bayes_error(gap, channels * size**2)`.
        samples: to train and validate on, half of each class.
        test_samples: of the test split.
        seed: of the values, not of the training.

    Raises:
        RectifyError: an option is out of range.
    """
    for key, value, least in (("samples", samples, 4), ("test_samples", test_samples, 2), ("size", size, 1)):
        if value < least:
            raise RectifyError(f"two_gaussians: {key} is {value}; give at least {least}.")
    if not 0 < abs(gap) <= 1:
        raise RectifyError(f"two_gaussians: gap is {gap}; give at most 1 standard deviation, and not 0.")
    if channels not in (1, 3):
        raise RectifyError(f"two_gaussians: channels is {channels}; give 1 or 3.")
    values, label = two_gaussians(samples + test_samples, gap, (size, size, channels), seed)
    levels = (CENTRE + LEVELS * values).round().clamp(0, 255).to(torch.uint8).numpy()
    test = np.arange(len(levels)) >= samples
    keys = [f"{'test' if late else 'train'}/{number:06d}" for number, late in enumerate(test)]
    names = ["around 0", f"around {gap:g}"]
    return Source(levels.__getitem__, label.numpy(), names, test, keys)
