"""DeepLIFT, SHAP variants, LRP, infidelity and sensitivity: Captum's, fenced so that they leave no trace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .input_gradients import Channels, pooled
from .perturbations import upsampled_cells
from .score import target_logit

ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),  # ReLU6 is a Hardtanh
)
NODES = ("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Sigmoid", "Tanh", "Softplus", "Hard")


def deep_lift(
    model: nn.Module, images: Tensor, target: Tensor, baseline: Tensor | float = 0.0, channels: Channels = "sum"
) -> Tensor:
    """Return DeepLIFT's maps against a baseline, signed (Shrikumar et al. 2017, rescale rule).

    Summed over pixels they are the difference of the logits.

    Raises:
        RectifyError: as `input_gradient`, or the network's activations are functions and not modules, which Captum does
            not see, or modules for which it has no rule (GELU, SiLU, ReLU6).
    """
    from captum.attr import DeepLift

    _needs_modules(model, images, target, "deep_lift")
    with _fenced(model, "deep_lift") as copy:
        found = DeepLift(copy).attribute(_leaf(images), _baseline(baseline, images), target=target)
    return pooled(found.detach(), channels)


def deep_lift_shap(
    model: nn.Module, images: Tensor, target: Tensor, baselines: Tensor, channels: Channels = "sum"
) -> Tensor:
    """Return the mean of DeepLIFT's maps over baselines (n, C, H, W), n above 1 (Lundberg & Lee 2017)."""
    from captum.attr import DeepLiftShap

    _needs_modules(model, images, target, "deep_lift_shap")
    with _fenced(model, "deep_lift_shap") as copy:
        found = DeepLiftShap(copy).attribute(_leaf(images), baselines.clone(), target=target)
    return pooled(found.detach(), channels)


def gradient_shap(
    model: nn.Module, images: Tensor, target: Tensor, baselines: Tensor, samples: int = 16, seed: int = 0
) -> Tensor:
    """Return the expected gradient between random baselines (n, C, H, W) and the image (B, H, W), signed."""
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
    """
    from captum.attr import KernelShap

    _checked(model, images, target)
    grid = torch.arange(cells * cells, device=images.device).view(1, cells, cells)
    mask = upsampled_cells(grid.float(), images.shape[-2:]).long()[None]
    found = []
    with _fenced(model, "kernel_shap"), _seeded(seed):
        for image, label in zip(images.detach().split(1), target.split(1), strict=True):
            options: Any = {"feature_mask": mask, "n_samples": samples, "perturbations_per_eval": 32}
            found.append(KernelShap(model).attribute(image.clone(), target=label, **options)[:, 0])
    return torch.cat(found).detach()


def lrp(model: nn.Module, images: Tensor, target: Tensor, channels: Channels = "sum") -> Tensor:
    """Return layer-wise relevance, signed (Bach et al. 2015), by Captum's default rules.

    Raises:
        RectifyError: as `deep_lift`, or a layer for which Captum has no rule.
    """
    from captum.attr import LRP

    _needs_modules(model, images, target, "lrp")
    with _fenced(model, "lrp") as copy:
        found = LRP(copy).attribute(_leaf(images), target=target)
    return pooled(found.detach(), channels)


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
def _fenced(model: nn.Module, who: str, gradients: bool = True) -> Iterator[nn.Module]:
    """Captum's errors become one sentence; it draws by the global generator, which is put back.

    Yields a copy for the methods that put hooks and rules on the layers: after an error Captum leaves them there.
    """
    import warnings

    with frozen_eval(model, input_gradients=gradients), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield deepcopy(model)
        except (AssertionError, RuntimeError, TypeError, AttributeError) as error:
            if isinstance(error, RectifyError):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RectifyError(f"{who}: Captum cannot explain {type(model).__name__}: {reason}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    torch.manual_seed(seed)  # inside the fence, which restores the random state
    yield


def _leaf(images: Tensor) -> Tensor:
    return images.detach().clone().requires_grad_()


def _baseline(value: Tensor | float, images: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=images.dtype, device=images.device).expand_as(images).clone()


def _checked(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with frozen_eval(model, input_gradients=True):
        return target_logit(model, images.detach().clone().requires_grad_(images.is_floating_point()), target)


def _needs_modules(model: nn.Module, images: Tensor, target: Tensor, who: str) -> None:
    """Refuse networks with activations that are no modules: Captum's rules would silently not apply to them."""
    calls: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, *_: calls.append(module))
        for module in model.modules()
        if isinstance(module, ACTIVATIONS)
    ]
    try:
        score = _checked(model, images, target)
    finally:
        for handle in handles:
            handle.remove()
    seen, waiting, nodes = set(), [score.grad_fn], 0
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += node.name().startswith(NODES)
        waiting += [following for following, _ in node.next_functions]
    if nodes > len(calls):
        raise RectifyError(
            f"{who}: {nodes - len(calls)} activations of {type(model).__name__} are functions, which Captum's rules do "
            "not see; use modules (nn.ReLU), or integrated_gradients."
        )
    if who.startswith("deep_lift"):
        from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

        # Captum takes a module without a rule as linear at the image; lrp refuses such modules itself
        without = sorted({type(module).__name__ for module in calls if type(module) not in SUPPORTED_NON_LINEAR})
        if without:
            raise RectifyError(
                f"{who}: Captum has no rule for {', '.join(without)} in {type(model).__name__}; use modules it has one "
                "for (nn.ReLU), or integrated_gradients."
            )
