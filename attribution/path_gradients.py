"""Gradients averaged over many images: along a path from a baseline, or in a cloud of noise."""

from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..randomness import keyed_generator
from .input_gradients import Channels, input_gradient, pooled

FLAT = 64  # images of one flat batch


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    channels: Channels = "sum",
) -> Tensor:
    """Return (x - x')·∫ dy/dx along the line from the baseline x', signed (Sundararajan et al. 2017).

    Summed over pixels it is the difference of the logits at x and x' (completeness), up to the quadrature, which is
    Gauss-Legendre's.

    Args:
        model, images, target: as for `input_gradient`.
        baseline: a value, or images that broadcast to (B, C, H, W).
        steps: points of the quadrature.
        channels: as for `input_gradient`.

    Raises:
        RectifyError: as `input_gradient`, steps below 1, or a baseline that does not fit.
    """
    if steps < 1:
        raise RectifyError(f"integrated_gradients: steps is {steps}; give at least 1.")
    start = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    try:
        start = start.expand_as(images)
    except RuntimeError:
        raise RectifyError(
            f"integrated_gradients: baseline {tuple(start.shape)} does not fit images {tuple(images.shape)}."
        ) from None
    points, weights = _gauss_legendre(steps)
    way = images.detach() - start
    total = torch.zeros_like(way)
    many = max(1, FLAT // max(1, len(images)))
    for first in range(0, steps, many):
        at = torch.tensor(points[first : first + many], dtype=images.dtype, device=images.device)
        weight = torch.tensor(weights[first : first + many], dtype=images.dtype, device=images.device)
        flat = (start + at.view(-1, 1, 1, 1, 1) * way).flatten(0, 1)
        gradient = input_gradient(model, flat, target.repeat(len(at)), "keep").unflatten(0, (len(at), -1))
        total += torch.einsum("n,nbchw->bchw", weight, gradient)
    return pooled(way * total, channels)


class NoiseOptions(TypedDict, total=False):
    """What `noisy_gradients` takes by name."""

    samples: int
    noise: float
    generator: torch.Generator | None
    channels: Channels


def smooth_grad(model: nn.Module, images: Tensor, target: Tensor, **options: Unpack[NoiseOptions]) -> Tensor:
    """Return the mean gradient over noisy copies of the image (Smilkov et al. 2017); options of `noisy_gradients`."""
    return noisy_gradients(model, images, target, **options)[0]


def smooth_grad_squared(model: nn.Module, images: Tensor, target: Tensor, **options: Unpack[NoiseOptions]) -> Tensor:
    """Return the mean squared gradient over noisy copies (Hooker et al. 2019); options of `noisy_gradients`."""
    return noisy_gradients(model, images, target, **options)[1]


def var_grad(model: nn.Module, images: Tensor, target: Tensor, **options: Unpack[NoiseOptions]) -> Tensor:
    """Return the variance of the gradient over noisy copies (Adebayo et al. 2018); options of `noisy_gradients`."""
    return noisy_gradients(model, images, target, **options)[2]


def noisy_gradients(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    samples: int = 16,
    noise: float = 0.15,
    generator: torch.Generator | None = None,
    channels: Channels = "max",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, mean square and variance of the gradient over noisy copies of the images.

    All images get the same noise, so that a map does not depend on the batch it was computed in. The variance is that
    of the samples (divided by their number), accumulated as Welford does: it cannot turn negative by cancellation.

    Args:
        model, images, target: as for `input_gradient`.
        samples: noisy copies of each image.
        noise: standard deviation, as a share of the range of each image.
        generator: on the images' device; by default one keyed by the method, so that calls repeat.
        channels: how the channels of each of the three are folded, as for `input_gradient`.

    Raises:
        RectifyError: as `input_gradient`, samples below 1 or noise below 0.
    """
    if samples < 1 or noise < 0:
        raise RectifyError(f"noisy_gradients: samples is {samples} and noise {noise}; give at least 1 and 0.")
    generator = generator or keyed_generator("noisy_gradients", device=images.device)
    flat = images.detach().flatten(1)
    deviation = (noise * (flat.amax(1) - flat.amin(1))).view(-1, 1, 1, 1) if len(flat) else flat.new_zeros(0, 1, 1, 1)
    mean, spread = torch.zeros_like(images), torch.zeros_like(images)
    seen, many = 0, max(1, FLAT // max(1, len(images)))
    while seen < samples:
        count = min(many, samples - seen)
        # one by one, since a large draw is not the same numbers as many small ones
        copies = [torch.randn(images.shape[1:], generator=generator, device=images.device) for _ in range(count)]
        noisy = (images.detach() + deviation * torch.stack(copies)[:, None].to(images.dtype)).flatten(0, 1)
        gradients = input_gradient(model, noisy, target.repeat(count), "keep").unflatten(0, (count, -1))
        for gradient in gradients:
            seen += 1
            away = gradient - mean
            mean = mean + away / seen
            spread = spread + away * (gradient - mean)
    variance = spread / samples
    return pooled(mean, channels), pooled(variance + mean.square(), channels), pooled(variance, channels)


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """Return maps (B, H, W) smoothed by a Gaussian of `sigma` pixels, as S-IntGrad and S-IxG are (Rao et al. 2023)."""
    radius = max(1, round(3 * sigma))
    place = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = nn.functional.pad(maps[:, None], (radius,) * 4, mode="replicate")
    rows = nn.functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return nn.functional.conv2d(rows, kernel.view(1, 1, 1, -1)).squeeze(1)


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Points and weights on [0, 1]."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(steps)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()
