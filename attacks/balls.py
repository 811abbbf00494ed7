"""The sets an attack may not leave: a ball around each image, cut by [0, 1]."""

import torch
from torch import Tensor

Size = float | Tensor
HAIR = 1e-5  # an L2 ball is made smaller by this share, so that rounding cannot leave it


def linf_box(image: Tensor, eps: Size) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds of the L∞ ball cut by [0, 1], rounded inwards: |x - image| ≤ eps holds exactly.

    Args:
        eps: a number, or a tensor that broadcasts against the images.
    """
    size = _rounded_down(eps, image)
    # a bound is rounded by half a unit in its last place at most: one unit inwards is safe; an eps of 0 stays 0
    lower = torch.nextafter(image - size, image)
    upper = torch.nextafter(image + size, image)
    return lower.clamp_(0, 1), upper.clamp_(0, 1)


def project_l2(x: Tensor, image: Tensor, eps: Size) -> Tensor:
    """Move x in place into the L2 ball around the image, then into [0, 1], which only brings it nearer."""
    away = x - image
    scale = ((eps * (1 - HAIR)) / l2_norm(away)).clamp(max=1)
    return x.copy_(image).addcmul_(away, scale.to(x.dtype)).clamp_(0, 1)


def l2_norm(x: Tensor) -> Tensor:
    """Return the norm of each sample, (B, 1, ...), never 0."""
    tiny = torch.finfo(x.dtype).tiny
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(tiny).view(-1, *[1] * (x.ndim - 1))


def _rounded_down(eps: Size, image: Tensor) -> Tensor:
    exact = torch.as_tensor(eps, dtype=torch.float64) if isinstance(eps, float) else eps
    size = exact.to(image.dtype)
    below = torch.nextafter(size, torch.zeros_like(size))
    return torch.where(size.to(exact.dtype) > exact, below, size)
