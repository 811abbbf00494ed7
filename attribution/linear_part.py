"""LinearScope: the linear map that a ReLU network is at an image, and what its biases add."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import RectifyError
from ..frozen import frozen_eval
from .score import logits_of


@dataclass(frozen=True)
class LinearScope:
    """The logits of each image, split.

    Attributes:
        logits: (B, K).
        linear: (B, K), J·x with the gates of the non-linear units held at the image.
    """

    logits: Tensor
    linear: Tensor

    @property
    def bias(self) -> Tensor:
        """What is left, (B, K): the part of the biases, through the same gates."""
        return self.logits - self.linear

    @property
    def bias_share(self) -> Tensor:
        """Σ|bias| / (Σ|bias| + Σ|linear|) over classes, (B,): near 1 the image hardly speaks."""
        bias, linear = self.bias.abs().sum(1), self.linear.abs().sum(1)
        return bias / (bias + linear).clamp_min(1e-12)


def linear_interpreter(model: nn.Module, images: Tensor) -> LinearScope:
    """Split the logits of a piecewise linear network into J·x and the part of its biases (Ning & Gori 2019).

    One forward-mode product, exact for ReLU, max pooling and normalisation in eval mode; for smooth activations J·x
    is the first-order part.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.

    Raises:
        RectifyError: as `input_gradient`.
    """
    with frozen_eval(model, input_gradients=True), _differentiable_attention():
        images = images.detach().clone()
        product: Any = jvp(lambda image: logits_of(model, image), (images,), (images.clone(),))
    logits, linear = product
    return LinearScope(logits.detach(), linear.detach())


def jacobian_rows(model: nn.Module, image: Tensor, chunk: int = 16) -> Tensor:
    """Return J of one image (C, H, W) as (K, C, H, W): each class's own linear template, by reverse mode."""
    if image.ndim != 3:
        raise RectifyError(f"jacobian_rows takes one image (C, H, W), got {tuple(image.shape)}.")
    with frozen_eval(model, input_gradients=True), _differentiable_attention():
        product: Any = vjp(lambda image: logits_of(model, image[None])[0], image.detach().clone())
        logits, pull = product
        basis = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
        rows = [vmap(pull)(part)[0] for part in basis.split(chunk)]
    return torch.cat(rows).detach()


def top_singular_images(model: nn.Module, image: Tensor, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return the directions in image space that move the logits most, of one image (C, H, W).

    Returns:
        Singular values (count,) in falling order, images (count, C, H, W) of length 1, and the logits (count, K) they
        move, of length 1.

    Raises:
        RectifyError: a count below 1 or above the number of classes.
    """
    rows = jacobian_rows(model, image)
    if not 1 <= count <= len(rows):
        raise RectifyError(f"top_singular_images: count is {count}; give 1 to {len(rows)}, the number of classes.")
    left, values, right = torch.linalg.svd(rows.flatten(1), full_matrices=False)
    return values[:count], right[:count].unflatten(1, image.shape), left.T[:count]


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Fused attention has no forward-mode derivative, nor has the fast path of `nn.MultiheadAttention` in eval mode."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
