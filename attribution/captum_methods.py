"""SHAP variants, infidelity and sensitivity: Captum's, fenced so that they leave no trace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .input_gradients import pooled
from .perturbations import upsampled_cells
from .score import target_logit


def gradient_shap(
    model: nn.Module, images: Tensor, target: Tensor, baselines: Tensor, samples: int = 16, seed: int = 0
) -> Tensor:
    """Return the expected gradient between random baselines (n, C, H, W) and the image (B, H, W), signed.

    Calls with one seed repeat; each image has its own draws, so a map depends on its place in the batch.
    """
    from captum.attr import GradientShap

    _checked(model, images, target)
    with _fenced(model, "gradient_shap"), _seeded(seed):
        found = GradientShap(model).attribute(_leaf(images), baselines.clone(), n_samples=samples, target=target)
    return pooled(found.detach(), "sum")


def kernel_shap(
    model: nn.Module, images: Tensor, target: Tensor, cells: int = 4, samples: int = 200, seed: int = 0
) -> Tensor:
    """Return Shapley values of the logit for image cells against 0 (B, H, W), by regression over `samples` coalitions.

    One image at a time, `samples` forward passes each.

    Raises:
        RectifyError: as `input_gradient`, or cells or samples below 1.
    """
    from captum.attr import KernelShap

    if cells < 1 or samples < 1:
        raise RectifyError(f"kernel_shap: cells is {cells} and samples {samples}; give at least 1 each.")
    _checked(model, images, target)
    grid = torch.arange(cells * cells, device=images.device).view(1, cells, cells)
    mask = upsampled_cells(grid.float(), images.shape[-2:]).long()[None]
    found = []
    with _fenced(model, "kernel_shap"), _seeded(seed):
        for image, label in zip(images.detach().split(1), target.split(1), strict=True):
            options: Any = {"feature_mask": mask, "n_samples": samples, "perturbations_per_eval": 32}
            found.append(KernelShap(model).attribute(image.clone(), target=label, **options)[:, 0])
    return torch.cat(found).detach()


def map_infidelity(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    attribution: Tensor,
    noise: float = 0.1,
    samples: int = 32,
    seed: int = 0,
) -> Tensor:
    """Return (B,) how far Gaussian noise moves the logit from what the attribution (B, C, H, W) predicts (Yeh 2019)."""
    from captum.metrics import infidelity

    _checked(model, images, target)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        drawn = noise * torch.randn_like(inputs)
        return drawn, inputs - drawn

    with _fenced(model, "map_infidelity", gradients=False), _seeded(seed):
        return infidelity(
            model, perturb, images.detach().clone(), attribution.detach(), target=target, n_perturb_samples=samples
        ).detach()


def map_sensitivity(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    saliency: Callable[[nn.Module, Tensor, Tensor], Tensor],
    radius: float = 0.02,
    samples: int = 8,
    seed: int = 0,
) -> Tensor:
    """Return (B,) the largest relative change of a map over perturbations in an L∞ ball (Yeh et al. 2019)."""
    from captum.metrics import sensitivity_max

    _checked(model, images, target)

    def explain(inputs: Any, target: Tensor) -> tuple[Tensor]:
        return (saliency(model, inputs[0] if isinstance(inputs, tuple) else inputs, target),)

    with _fenced(model, "map_sensitivity"), _seeded(seed):
        return sensitivity_max(
            explain, images.detach().clone(), perturb_radius=radius, n_perturb_samples=samples, target=target
        ).detach()


@contextmanager
def _fenced(model: nn.Module, who: str, gradients: bool = True) -> Iterator[None]:
    """Captum's errors become one sentence."""
    import warnings

    with frozen_eval(model, input_gradients=gradients), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (AssertionError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, RectifyError):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RectifyError(f"{who}: Captum cannot explain {type(model).__name__}: {reason}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Captum draws by the global generators of torch and of NumPy: both start at the seed and are put back."""
    import numpy as np

    torch.manual_seed(seed)  # inside the fence, which restores this one
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


def _leaf(images: Tensor) -> Tensor:
    return images.detach().clone().requires_grad_()


def _checked(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with frozen_eval(model, input_gradients=True):
        return target_logit(model, images.detach().clone().requires_grad_(images.is_floating_point()), target)
