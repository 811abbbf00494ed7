"""DeepLIFT and LRP: what reaches each pixel when the logit is handed back layer by layer, by Captum's rules."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .captum_methods import _checked, _fenced, _leaf
from .input_gradients import Channels, pooled
from .known_operations import ACTIVATIONS, LINEAR_MODULES, NOTHING
from .modules_per_call import _modular_copy
from .relevance_rules import _modular_copy_with_rules
from .score import logits_of

MISSED = 1e-3  # of the contributions' sum without signs; the exact rule misses 1e-6 in float32


def deep_lift(
    model: nn.Module, images: Tensor, target: Tensor, baseline: Tensor | float = 0.0, channels: Channels = "sum"
) -> Tensor:
    """Return DeepLIFT's maps against a baseline, signed (Shrikumar et al. 2017, rescale rule).

    Summed over pixels they are the difference of the logits, which is checked. Captum computes them on a copy in which
    each call of an activation or pooling is a module of its own, so activations may be functions or be shared.

    Raises:
        RectifyError: as `input_gradient`, a baseline that does not fit, or a network with an operation for which Captum
            has no rule (GELU, SiLU, group norm, attention).
    """
    from captum.attr import DeepLift

    _checked(model, images, target)
    start = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    try:
        start = start.expand_as(images).clone()
    except RuntimeError:
        raise RectifyError(
            f"deep_lift: baseline {tuple(start.shape)} does not fit images {tuple(images.shape)}."
        ) from None
    with _fenced(model, "deep_lift"):
        copy = _with_modules(model, images, "deep_lift")
        found = DeepLift(copy).attribute(_leaf(images), start, target=target).detach()
        _check_complete(model, images, start, target, found, "deep_lift")
    return pooled(found, channels)


def deep_lift_shap(
    model: nn.Module, images: Tensor, target: Tensor, baselines: Tensor, channels: Channels = "sum"
) -> Tensor:
    """Return the mean of DeepLIFT's maps over baselines (n, C, H, W), n above 1 (Lundberg & Lee 2017)."""
    from captum.attr import DeepLiftShap

    _checked(model, images, target)
    with _fenced(model, "deep_lift_shap"):
        copy = _with_modules(model, images, "deep_lift_shap")
        found = DeepLiftShap(copy).attribute(_leaf(images), baselines.clone(), target=target).detach()
        _check_complete(model, images, baselines, target, found, "deep_lift_shap")
    return pooled(found, channels)


def lrp(model: nn.Module, images: Tensor, target: Tensor, channels: Channels = "sum") -> Tensor:
    """Return layer-wise relevance, signed (Bach et al. 2015), by the ε rule with a tiny ε, Captum's default.

    The relevance is that of the normalised image, what the first layer sees. A sum of branches shares relevance by
    value; batch norm is a layer of its own. Without biases and batch norm the maps sum to the logit. In a network of
    ReLUs the rule is the same as gradient times input at the normalised image (Ancona et al. 2018).

    Raises:
        RectifyError: as `input_gradient`, a forward that torch.fx cannot record, or an operation for which Captum has
            no rule (every activation but ReLU and tanh, group norm, attention).
    """
    from captum.attr import LRP

    _checked(model, images, target)
    with _fenced(model, "lrp"):
        images, target = images.detach().clone(), target.clone()  # those of inference mode take no part in a graph
        copy, start = _modular_copy_with_rules(model, images)
        _check_same(model, images, copy, start, "lrp")
        found = LRP(copy).attribute(_leaf(start), target=target)
    return pooled(found.detach(), channels)


def _with_modules(model: nn.Module, images: Tensor, who: str) -> nn.Module:
    try:
        copy = _modular_copy(model, images)
    except Exception:  # torch.fx raises what a forward raises that meets its proxies, which is anything
        copy = deepcopy(model)  # its modules may do as they are: the check of the sum says
    else:
        _check_same(model, images, copy, images, who)
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    kinds = {type(module) for module in copy.modules()} & set(ACTIVATIONS.values())
    if without := sorted(kind.__name__ for kind in kinds - set(SUPPORTED_NON_LINEAR)):
        raise RectifyError(
            f"{who}: Captum has no rule for {', '.join(without)} in {type(model).__name__}; use modules it has one "
            "for (nn.ReLU), or integrated_gradients."
        )
    return copy


def _check_same(model: nn.Module, images: Tensor, copy: nn.Module, start: Tensor, who: str) -> None:
    """Refuse a copy with other logits: the network does what its recorded operations do not tell."""
    with torch.no_grad():
        logits, found = logits_of(model, images.detach().clone()), copy(start.detach().clone())
    if not torch.allclose(logits, found, rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
        raise RectifyError(
            f"{who}: the recorded operations of {type(model).__name__} give other logits than its forward; "
            "make its forward repeatable, or use integrated_gradients."
        )


def _check_complete(model: nn.Module, images: Tensor, start: Tensor, target: Tensor, found: Tensor, who: str) -> None:
    """Refuse contributions that do not sum to the change of the logit: an operation was taken as linear that is not."""
    with frozen_eval(model):
        label = target.long()[:, None]
        change = logits_of(model, images.detach()).gather(1, label).squeeze(1)
        base = logits_of(model, start.detach())
        change = change - (base.mean(0)[target.long()] if who != "deep_lift" else base.gather(1, label).squeeze(1))
    total = found.flatten(1)
    missed = (total.sum(1) - change).abs()
    if not bool((missed <= MISSED * (total.abs().sum(1) + change.abs())).all()):
        worst = int(missed.nan_to_num(torch.inf).argmax())
        kinds = {type(module) for module in model.modules() if not any(True for _ in module.children())}
        odd = sorted(kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn") and not _known(kind))
        raise RectifyError(
            f"{who}: the contributions sum to {float(total[worst].sum()):.4g} where the logit changes by "
            f"{float(change[worst]):.4g}, so Captum has no rule for an operation of {type(model).__name__}"
            f"{' (' + ', '.join(odd) + ')' if odd else ''}; use integrated_gradients."
        )


def _known(kind: type[nn.Module]) -> bool:
    linear = (*LINEAR_MODULES, *NOTHING, nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    return kind in ACTIVATIONS.values() or issubclass(kind, linear) or "Pool" in kind.__name__
