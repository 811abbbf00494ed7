"""CutMix (Yun et al. 2019, arXiv 1905.04899), a box per sample."""

import torch
from torch import Tensor

from ...errors import RectifyError
from ..base_losses import BaseLoss
from ._draws import Per, beta, check_alpha, check_per, permutation
from .mixing import Mixing
from .plan import MixedTarget, MixPlan, mask_plan


def _boxes(image: Tensor, lam: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return float32 masks (len(lam), 1, *spatial), 0 inside a random box that is clipped at the border, else 1."""
    spatial = image.shape[2:]
    if not spatial:
        raise RectifyError(f"CutMix: images of shape {tuple(image.shape)} have no axis to cut a box from.")
    share = (1 - lam) ** (1 / len(spatial))
    centre = torch.rand(len(lam), len(spatial), generator=generator, device=lam.device)
    inside = torch.ones((), device=lam.device)
    for axis, size in enumerate(spatial):
        width = (share * size).floor()
        start = (centre[:, axis] * size).floor() - (width / 2).floor()
        place = torch.arange(size, device=lam.device)
        along = ((place >= start[:, None]) & (place < (start + width)[:, None])).to(lam.dtype)
        inside = inside * along.view(-1, 1, *(size if other == axis else 1 for other in range(len(spatial))))
    return 1 - inside


def _draw(image: Tensor, alpha: float, per: Per, generator: torch.Generator | None) -> MixPlan:
    n, device = len(image), image.device
    lam = beta(alpha, alpha, n, per, generator, device)
    mask = _boxes(image, lam if per == "sample" else lam[:1], generator)
    return mask_plan(mask.expand(n, *mask.shape[1:]), permutation(n, generator, device))


@torch.no_grad()
def cutmix(
    image: Tensor, label: Tensor, alpha: float = 1.0, per: Per = "sample", generator: torch.Generator | None = None
) -> tuple[Tensor, MixedTarget]:
    """Paste a box of another image into each of a batch (B, C, *spatial); `target.loss(model(mixed))` is the loss.

    Args:
        label: (B,) int64.
        alpha: λ ~ Beta(alpha, alpha); the box covers 1-λ before clipping.
        per: one box for each `sample`, or one for the `batch`.
        generator: on the images' device; torch's global one by default.

    Raises:
        RectifyError: alpha is not above 0, per is unknown, or the images have no spatial axis.
    """
    check_alpha("cutmix", alpha)
    plan = _draw(image, alpha, check_per("cutmix", per), generator)
    return plan.apply(image), plan.target(label)


class CutMix(Mixing):
    """A box of x_j replaces that part of x_i; the label weight is the share of x_i left after clipping the box.

    Args:
        alpha: λ ~ Beta(alpha, alpha), alpha > 0; each side of the box is (1-λ)^(1/2) of the image's in 2-D.
        per: one box for each `sample`, or one for the `batch`.
        stop, base: see Mixing.
    """

    def __init__(
        self, alpha: float = 1.0, per: Per = "sample", stop: float | None = None, base: BaseLoss | None = None
    ):
        super().__init__(stop, base)
        self.alpha = check_alpha("CutMix", alpha)
        self.per = check_per("CutMix", per)

    def draw(self, image: Tensor, generator: torch.Generator | None) -> MixPlan:
        return _draw(image, self.alpha, self.per, generator)
