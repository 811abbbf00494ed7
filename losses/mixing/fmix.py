"""FMix (Harris et al. 2020, arXiv 2002.12047): masks of arbitrary shape from low-frequency noise."""

import torch
from torch import Tensor

from ...errors import RectifyError
from ..base_losses import BaseLoss
from ._draws import Per, beta, check_alpha, check_per, permutation
from .fields import Spectrum, check_spectrum
from .fmix_masks import fmix_masks
from .mixing import Mixing
from .plan import MixedTarget, MixPlan, mask_plan


def _draw(
    image: Tensor,
    alpha: float,
    decay: float,
    max_soft: float,
    reformulate: bool,
    spectrum: Spectrum,
    per: Per,
    generator: torch.Generator | None,
) -> MixPlan:
    n, device = len(image), image.device
    lam = beta(alpha + reformulate, alpha, n, per, generator, device)
    if per == "batch":
        lam = lam[:1]
    mask = fmix_masks(image.shape[2:], lam, decay, max_soft, spectrum, generator)
    return mask_plan(mask.expand(n, *mask.shape[1:]), permutation(n, generator, device), reformulate)


@torch.no_grad()
def fmix(
    image: Tensor,
    label: Tensor,
    alpha: float = 1.0,
    decay: float = 3.0,
    max_soft: float = 0.0,
    spectrum: Spectrum = "isotropic",
    per: Per = "sample",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, MixedTarget]:
    """Mix a batch (B, C, *spatial) through masks; `target.loss(model(mixed))` is the loss.

    Args:
        label: (B,) int64.
        alpha, decay, max_soft, spectrum, per: see FMix.
        generator: on the images' device; torch's global one by default.

    Raises:
        RectifyError: an argument is outside its range, or the images have no spatial axis.
    """
    check_alpha("fmix", alpha)
    plan = _draw(image, alpha, decay, max_soft, False, spectrum, check_per("fmix", per), generator)
    return plan.apply(image), plan.target(label)


class FMix(Mixing):
    """x̃ = m·x_i + (1-m)·x_j with one mask per sample; the label weight is the realised mean(m). 1-, 2- and 3-D.

    Args:
        alpha: λ ~ Beta(alpha, alpha), alpha > 0.
        decay: δ, the power with which the mask's spectrum falls.
        max_soft: width of the soft edge as a share of the pixels, in [0, 0.5]; 0 gives binary masks.
        reformulate: λ ~ Beta(alpha + 1, alpha) and the sample's own label only; for cross-entropy the same in
            expectation, at half the label work.
        spectrum: `isotropic`, or `official` to repeat the public sampler's masks (see `random_fields`).
        per: one mask for each `sample`, or one for the `batch`.
        stop, base: see Mixing.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        decay: float = 3.0,
        max_soft: float = 0.0,
        reformulate: bool = False,
        spectrum: Spectrum = "isotropic",
        per: Per = "sample",
        stop: float | None = None,
        base: BaseLoss | None = None,
    ):
        super().__init__(stop, base)
        self.alpha = check_alpha("FMix", alpha)
        self.per = check_per("FMix", per)
        if not 0 <= max_soft <= 0.5:
            raise RectifyError(f"FMix: max_soft is {max_soft}; it must lie in [0, 0.5].")
        check_spectrum(decay, spectrum)
        self.decay, self.max_soft, self.reformulate, self.spectrum = decay, max_soft, reformulate, spectrum

    def draw(self, image: Tensor, generator: torch.Generator | None) -> MixPlan:
        return _draw(image, self.alpha, self.decay, self.max_soft, self.reformulate, self.spectrum, self.per, generator)
