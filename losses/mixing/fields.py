"""Smooth random fields on an N-D grid, the grey images that FMix thresholds (Harris et al. 2020, arXiv 2002.12047)."""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Literal

import torch
from torch import Tensor

from ...errors import RectifyError

Spectrum = Literal["isotropic", "official"]

_DISCARDED = 1e-4
"""Share of the spectrum's energy that may be left out for speed."""


def check_spectrum(decay: float, spectrum: str) -> None:
    """Raise RectifyError unless decay is above 0 and the spectrum is known."""
    if decay <= 0:
        raise RectifyError(f"FMix: decay is {decay}; it must be above 0.")
    if spectrum not in ("isotropic", "official"):
        raise RectifyError(f"FMix: spectrum is {spectrum!r}; choose isotropic or official.")


def random_fields(
    count: int,
    shape: Sequence[int],
    decay: float = 3.0,
    spectrum: Spectrum = "isotropic",
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw (count, *shape) float32 Gaussian fields whose amplitude falls as frequency^-decay.

    Args:
        shape: grid of one, two, three or more axes.
        decay: δ; frequencies are in cycles per pixel, so a long axis does not stretch the blobs.
        spectrum: `isotropic`, the same in every direction; or `official`, the distribution of the authors' public
            sampler, whose last axis knows only the frequencies 0 and ±1 (in 1-D a single cosine).

    Raises:
        RectifyError: an empty shape, an axis below 2 pixels, an unknown spectrum, or decay not above 0.
    """
    shape = tuple(shape)
    if not shape or min(shape) < 2:
        raise RectifyError(f"FMix: the mask's shape is {shape}; every axis needs at least 2 pixels.")
    check_spectrum(decay, spectrum)
    sample = _isotropic if spectrum == "isotropic" else _official
    return sample(count, shape, decay, generator, torch.device(device))


def _radius(frequencies: Sequence[Tensor]) -> Tensor:
    """Return |f| on the grid spanned by one vector of frequencies per axis."""
    grids = torch.meshgrid(*frequencies, indexing="ij")
    return torch.stack([grid.square() for grid in grids]).sum(0).sqrt()


@cache
def _bands(shape: tuple[int, ...], decay: float) -> tuple[tuple[int, int], ...]:
    """Return per axis the integer frequencies [first, last] that hold all but `_DISCARDED` of the energy."""
    radius = _radius([torch.fft.fftfreq(size, dtype=torch.float64) for size in shape]).flatten()
    radius = radius[radius > 0].sort(descending=True).values
    tail = radius.pow(-2 * decay).cumsum(0)
    cut = radius[int((tail <= _DISCARDED * tail[-1]).sum())].item()
    bands = []
    for size in shape:
        reach = int(cut * size + 1e-9)
        bands.append((-min(reach, size // 2), min(reach, (size - 1) // 2)))
    return tuple(bands)


def _isotropic(
    count: int, shape: tuple[int, ...], decay: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Sum the low frequencies as one small matrix product per axis.

    Real and imaginary part of a sum of independent complex Gaussian modes are two independent fields, both isotropic;
    a real inverse FFT would halve the variance of the modes on the zero plane of the last axis.
    """
    modes = [torch.arange(first, last + 1, device=device) for first, last in _bands(shape, decay)]
    radius = _radius([mode / size for mode, size in zip(modes, shape, strict=True)])
    amplitude = torch.where(radius > 0, radius, torch.inf).pow(-decay) * max(shape) ** -decay  # no constant term
    pairs = (count + 1) // 2
    z = torch.randn(pairs, *radius.shape, dtype=torch.complex64, generator=generator, device=device) * amplitude
    for mode, size in zip(modes, shape, strict=True):
        turns = mode[:, None] * torch.arange(size, device=device) % size  # exact integers: no loss of phase
        wave = torch.polar(torch.ones_like(turns, dtype=torch.float32), turns * (2 * torch.pi / size))
        z = torch.tensordot(z, wave, dims=([1], [0]))  # the axis leaves at the front and comes back at the end
    return torch.cat([z.real, z.imag])[:count]


def _official(
    count: int, shape: tuple[int, ...], decay: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Repeat the axis slip of the public sampler.

    It draws a half spectrum with real and imaginary part on a last axis of size 2, and then joins the first two entries
    of the *first frequency axis* to complex numbers. What is left has one axis shifted to the left, and the former
    real/imaginary axis is read as the frequencies 0 and 1 of the last axis.
    """
    half = [torch.fft.fftfreq(size, device=device) for size in shape[:-1]]
    radius = _radius([*half, torch.fft.rfftfreq(shape[-1], device=device)])
    amplitude = radius.clamp_min(1 / max(shape)).pow(-decay)[:2]
    noise = torch.randn(count, *amplitude.shape, 2, generator=generator, device=device) * amplitude[..., None]
    axes = tuple(range(1, len(shape) + 1))
    return torch.fft.irfftn(torch.complex(noise[:, 0], noise[:, 1]), s=shape, dim=axes, norm="forward") / prod(shape)
