"""Smooth random fields on an N-D grid, the grey images that FMix thresholds (Harris et al. 2020, arXiv 2002.12047)."""

from collections.abc import Sequence
from functools import cache, lru_cache
from math import isfinite, prod
from typing import Literal

import torch
from torch import Tensor

from ...errors import RectifyError

Spectrum = Literal["isotropic", "official"]

_DISCARDED = 1e-4
"""Share of the spectrum's energy that may be left out for speed."""


def check_spectrum(decay: float, spectrum: str) -> None:
    """Raise RectifyError unless decay is finite and above 0 and the spectrum is known."""
    if not (decay > 0 and isfinite(decay)):
        raise RectifyError(f"FMix: decay is {decay}; it must be a finite number above 0.")
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
    device = torch.device(device)
    with torch.autocast(device.type, enabled=False):  # 8 bits of mantissa would give a field of plateaus
        return sample(count, shape, decay, generator, device)


def _radius(frequencies: Sequence[Tensor]) -> Tensor:
    """Return |f| on the grid spanned by one vector of frequencies per axis."""
    grids = torch.meshgrid(*frequencies, indexing="ij")
    return torch.stack([grid.square() for grid in grids]).sum(0).sqrt()


@cache
def _reach(shape: tuple[int, ...], decay: float) -> tuple[int, ...]:
    """Return per axis the highest frequency, in turns, needed to hold all but `_DISCARDED` of the energy."""
    radius = _radius([torch.fft.fftfreq(size, dtype=torch.float64) for size in shape]).flatten()
    radius = radius[radius > 0].sort(descending=True).values
    tail = radius.pow(-2 * decay).cumsum(0)
    cut = radius[int((tail <= _DISCARDED * tail[-1]).sum())].item()
    return tuple(min(int(cut * size + 1e-9), size // 2) for size in shape)


def _waves(size: int, reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the turns (m,) and the waves (m, size) of the real Fourier basis of one axis up to `reach` turns."""
    cosine, sine = (
        torch.arange(reach + 1, device=device),
        torch.arange(1, min(reach, (size - 1) // 2) + 1, device=device),
    )
    turns = torch.cat([cosine, sine])
    angle = (turns[:, None] * torch.arange(size, device=device) % size) * (2 * torch.pi / size)
    waves = torch.cat([angle[: reach + 1].cos(), angle[reach + 1 :].sin()])
    # each wave stands for the frequencies +turns and -turns, which are one and the same at 0 and at size / 2
    single = (turns == 0) | (2 * turns == size)
    return turns, torch.where(single[:, None], waves, waves * 2**0.5)


@lru_cache(maxsize=8)
def _basis(shape: tuple[int, ...], decay: float, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the amplitudes (m_1, …, m_N) and one (m_i, size_i) matrix of waves per axis.

    Kept, because on a GPU the two dozen small kernels behind it would cost more than the draw itself.
    """
    axes = [_waves(size, reach, device) for size, reach in zip(shape, _reach(shape, decay), strict=True)]
    radius = _radius([turns / size for (turns, _), size in zip(axes, shape, strict=True)])
    amplitude = torch.where(radius > 0, radius * max(shape), torch.inf).pow(-decay)  # no constant term
    return amplitude, tuple(waves for _, waves in axes)


def _isotropic(
    count: int, shape: tuple[int, ...], decay: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Sum the low frequencies as one small matrix product per axis.

    Independent Gaussians on the products of real waves give the stationary field of that spectrum exactly. (A real
    inverse FFT of complex Gaussians would halve the variance of the modes on the zero plane of the last axis.)
    """
    amplitude, bases = _basis(shape, decay, device)
    field = torch.randn(count, *amplitude.shape, generator=generator, device=device) * amplitude
    field = field @ bases[-1]
    for axis, waves in enumerate(bases[:-1], start=1):
        after = field.shape[axis + 1 :]
        grid = field.reshape(-1, len(waves), after.numel())
        field = torch.matmul(waves.mT, grid).view(*field.shape[:axis], waves.shape[1], *after)
    return field


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
