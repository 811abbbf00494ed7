"""d-Mixup (Chidambaram & Ge, ICLR 2024, arXiv 2306.00740): mixtures of d points."""

import warnings

import torch
from torch import Tensor

from ...errors import RectifyError
from ..base_losses import BaseLoss
from ._draws import Per, check_alpha, check_per, dirichlet, permutation
from .mixing import Mixing
from .plan import MixedTarget, MixPlan


def _check_points(owner: str, d: int) -> int:
    if d < 2:
        raise RectifyError(f"{owner}: d is {d}; a mixture needs at least 2 points.")
    return d


def _draw(image: Tensor, d: int, alpha: float, per: Per, generator: torch.Generator | None) -> MixPlan:
    n, device = len(image), image.device
    weights = dirichlet([alpha] * d, n, per, generator, device)
    partners = [torch.arange(n, device=device)]
    partners += [permutation(n, generator, device) for _ in range(d - 1)]
    return MixPlan(torch.stack(partners, 1), weights, weights)


@torch.no_grad()
def dirichlet_mixup(
    image: Tensor,
    label: Tensor,
    d: int = 2,
    alpha: float = 1.0,
    per: Per = "sample",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, MixedTarget]:
    """Mix d samples of a batch (B, ...) with labels (B,); `target.loss(model(mixed))` is the loss.

    Args:
        d, alpha, per: see DirichletMixup.
        generator: on the images' device; torch's global one by default.

    Raises:
        RectifyError: d is below 2, alpha not above 0, or per unknown.
    """
    check_alpha("dirichlet_mixup", alpha)
    per = check_per("dirichlet_mixup", per)
    plan = _draw(image, _check_points("dirichlet_mixup", d), alpha, per, generator)
    return plan.apply(image), plan.target(label)


class DirichletMixup(Mixing):
    """x̃ = Σ_d w_d·x_{π_d(i)}, loss Σ_d w_d·ℓ(y_{π_d(i)}), w ~ Dirichlet(α·1_d), π_1 the identity.

    Args:
        d: points in a mixture, at least 2 (which is Mixup); above 2 a network tends to be under-confident on images,
            which is warned about.
        alpha: α > 0; 1 is uniform on the simplex.
        per: weights for each `sample`, or one set for the `batch`.
        stop, base: see Mixing.
    """

    def __init__(
        self,
        d: int = 2,
        alpha: float = 1.0,
        per: Per = "sample",
        stop: float | None = None,
        base: BaseLoss | None = None,
    ):
        super().__init__(stop, base)
        if d > 2:
            warnings.warn(
                f"DirichletMixup: d is {d}; more than 2 points tend to make the network under-confident: watch the "
                "signed gap between confidence and accuracy.",
                stacklevel=2,
            )
        self.d = _check_points("DirichletMixup", d)
        self.alpha = check_alpha("DirichletMixup", alpha)
        self.per = check_per("DirichletMixup", per)

    def draw(self, image: Tensor, generator: torch.Generator | None) -> MixPlan:
        return _draw(image, self.d, self.alpha, self.per, generator)
