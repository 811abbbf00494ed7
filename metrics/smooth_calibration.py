"""Smooth calibration error: a kernel instead of bins, with a bandwidth that follows from the data."""

import math

import torch
from torch import Tensor

from .confidence_histogram import ConfidenceHistogram

EXACT_GRID = 2**16


def smooth_error(data: ConfidenceHistogram) -> Tensor:
    """Return smECE, the σ at which the error smoothed with a reflected Gaussian of width σ is σ itself.

    Błasiok and Nakkiran 2024: smECE_σ = ∫|1/N Σ_i K_σ(t, c_i)(c_i - a_i)| dt on [0, 1] with the Gaussian reflected at
    0 and 1; it falls with σ, so the fixed point is unique and bisection finds it. Reflection is a mirrored signal of
    period 2, so the smoothing is a product in Fourier space. NaN without samples.
    """
    if not data.samples:
        return data.confidence.new_tensor(torch.nan)
    residual = _on_grid(data)
    grid = len(residual)
    spectrum = torch.fft.rfft(torch.cat((residual, residual.flip(0))))
    turn = torch.arange(len(spectrum), device=residual.device, dtype=residual.dtype) * math.pi
    low, high = residual.new_zeros(()), residual.new_ones(())
    for _ in range(30):
        sigma = (low + high) / 2
        smooth = torch.fft.irfft(spectrum * (-(sigma * turn).square() / 2).exp(), 2 * grid)[:grid]
        above = smooth.abs().sum() > sigma
        low, high = torch.where(above, sigma, low), torch.where(above, high, sigma)
    return (low + high) / 2


def smooth_bound(data: ConfidenceHistogram) -> Tensor:
    """Return how far `smooth_error` may be from its value for the samples themselves.

    With cells of width w a sample moves by at most w/2, which changes the integral by at most w/(σ√2π) of its weight
    |c - a|; the sum over the grid in the place of the integral costs as much again. A change of the integral by ε moves
    the fixed point by no more than ε. Neither value exceeds the mean |c - a|, which is the bound where σ is near 0.
    """
    if not data.samples:
        return data.confidence.new_zeros(())
    width = data.width or 1 / EXACT_GRID
    filled = data.filled()
    low, high = filled.ends()
    weight = (filled.hits * (1 - low) + (filled.count - filled.hits) * high).sum() / data.samples
    return torch.minimum(weight, 2 * width * weight / (smooth_error(data) * math.sqrt(2 * math.pi)))


def _on_grid(data: ConfidenceHistogram) -> Tensor:
    """Mean residual, confidence minus hit, per cell of a uniform grid."""
    residual = (data.confidence - data.hits) / data.samples
    if data.width:
        return residual
    mean = data.confidence / data.count
    grid = torch.zeros(EXACT_GRID, dtype=residual.dtype, device=residual.device)
    return grid.index_add_(0, (mean * EXACT_GRID).long().clamp_(0, EXACT_GRID - 1), residual)
