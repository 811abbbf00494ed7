"""FMix's masks: random fields cut so that a wanted share of the pixels lies above."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import RectifyError
from .fields import Spectrum, random_fields

_PASSES = 8
_PASSES_1D = 12  # a line spends more of its length near its extremes, and is cheap
_TINY = torch.finfo(torch.float32).tiny


@torch.no_grad()
def fmix_masks(
    shape: Sequence[int],
    lam: Tensor,
    decay: float = 3.0,
    max_soft: float = 0.0,
    spectrum: Spectrum = "isotropic",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one mask per λ, (B, 1, *shape) float32, whose mean is λ to a few parts in a thousand.

    The label weight is the realised mean. λ·n is rounded to whole pixels at random, so that E[mean] = λ.

    Args:
        shape: spatial shape of one, two or three axes.
        lam: (B,) shares in [0, 1], on the device the masks are wanted on. Values outside are taken as 0 or 1: looking
            at them would make the host wait for the device.
        decay: δ of the spectrum; larger is smoother.
        max_soft: share of the pixels on either side of the cut over which the mask falls from 1 to 0, in [0, 0.5],
            limited to λ and 1-λ; at 0 the masks are binary.
        spectrum: `isotropic` or `official`, see `random_fields`.
        generator: on the device of `lam`; torch's global one by default.

    Raises:
        RectifyError: see `random_fields`; max_soft outside [0, 0.5]; lam is no floating-point tensor (B,).
    """
    if not (isinstance(lam, Tensor) and lam.ndim == 1 and lam.is_floating_point()):
        found = f"{lam.dtype} {tuple(lam.shape)}" if isinstance(lam, Tensor) else repr(lam)
        raise RectifyError(f"fmix_masks: lam is {found}; give a float tensor (B,), such as torch.full((B,), 0.5).")
    if not 0 <= max_soft <= 0.5:
        raise RectifyError(f"FMix: max_soft is {max_soft}; it must lie in [0, 0.5].")
    field = random_fields(len(lam), shape, decay, spectrum, generator, lam.device).flatten(1)
    n = field.shape[1]
    lam = lam.clamp(0, 1)
    keep = (lam * n + torch.rand(len(lam), generator=generator, device=lam.device)).floor().clamp_max(n)
    full = (len(lam), 1, *shape)
    passes = _PASSES if len(full) > 3 else _PASSES_1D
    if max_soft == 0:
        return _above(field, upper_cut(field, keep, passes)).view(full)
    soft = (torch.minimum(lam, 1 - lam).clamp_max(max_soft) * n).floor()
    high, middle, low = (upper_cut(field, count, passes)[:, None] for count in (keep - soft, keep, keep + soft))
    # linear in the field's value on either side of the cut, where the paper is linear in its rank: that needs a sort
    above = 0.5 + 0.5 * (field - middle) / (high - middle).clamp_min(_TINY)
    below = 0.5 * (field - low) / (middle - low).clamp_min(_TINY)
    return torch.where(field > middle, above, below).clamp(0, 1).view(full)


def _above(field: Tensor, cut: Tensor, out: Tensor | None = None) -> Tensor:
    """Return 1 where a row of (B, n) exceeds its cut (B,), else 0, in the field's own type.

    Floats are several times faster to write, sum and apply on a CPU than bools.
    """
    return torch.gt(field, cut[:, None], out=torch.empty_like(field) if out is None else out)


def upper_cut(field: Tensor, count: Tensor, passes: int = _PASSES) -> Tensor:
    """Return for each row of (B, n) the value that about `count` (B,) of its entries exceed.

    A bracketed search by interpolation on the number of entries above, a fixed number of passes over the data instead
    of a sort, and no host sync. Exact for count 0 and n.
    """
    field = field.contiguous()
    count = count.to(field.dtype)
    low, high = field.amin(1), field.amax(1)
    low = low - (high - low) * 1e-3  # strictly below every entry
    above_low, above_high = torch.full_like(low, field.shape[1]), torch.zeros_like(low)
    buffer = torch.empty_like(field)
    for i in range(passes):
        share = (above_low - count + 0.5) / (above_low - above_high + 1)
        if i % 2:  # pure interpolation may creep from one side
            share = share.clamp(0.1, 0.9)
        middle = torch.lerp(low, high, share)
        counted = _above(field, middle, buffer).sum(1)
        too_low, too_high = counted >= count, counted <= count
        low, above_low = torch.where(too_low, middle, low), torch.where(too_low, counted, above_low)
        high, above_high = torch.where(too_high, middle, high), torch.where(too_high, counted, above_high)
    return torch.where(above_low - count <= count - above_high, low, high)
