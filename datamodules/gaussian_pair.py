"""Two classes that overlap by a known amount: Gaussian images whose posterior is known."""

import math

import torch
from torch import Tensor

from ..errors import RectifyError
from ..randomness import keyed_generator


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
