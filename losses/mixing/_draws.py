"""Draws on the device from one generator, without a host sync."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...errors import RectifyError

Per = Literal["sample", "batch"]


def check_alpha(owner: str, alpha: float) -> float:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise RectifyError(f"{owner}: alpha is {alpha}; it must be a finite number above 0.")
    return float(alpha)


def check_per(owner: str, per: str) -> Per:
    if per not in ("sample", "batch"):
        raise RectifyError(f"{owner}: per is {per!r}; choose sample or batch.")
    return per  # type: ignore[return-value]


def dirichlet(
    alphas: Sequence[float], n: int, per: Per, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Draw (n, d) float32 weights ~ Dirichlet(alphas); one row for all with `per="batch"`.

    The draw is in float64: a gamma variable of a small concentration underflows float32 and the row would be 0/0.
    """
    rows = n if per == "sample" else 1
    concentration = torch.full((rows, len(alphas)), alphas[0], dtype=torch.float64, device=device)
    for place, alpha in enumerate(alphas):
        if alpha != alphas[0]:
            concentration[:, place].fill_(alpha)
    return torch._sample_dirichlet(concentration, generator).float().expand(n, -1)


def beta(a: float, b: float, n: int, per: Per, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw λ ~ Beta(a, b), (n,) float32."""
    return dirichlet((a, b), n, per, generator, device)[:, 0]


def permutation(n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw a random partner for each of n samples: a permutation, (n,) int64."""
    return torch.randperm(n, generator=generator, device=device)


def pair_partners(n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return (n, 2): each sample and its partner."""
    return torch.stack([torch.arange(n, device=device), permutation(n, generator, device)], 1)
