"""Layer masking: a CNN's answer to an image of which parts do not exist, instead of being black or grey."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .score import logits_of


def layer_masked_logits(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """Return logits (B, K) that do not depend on what stands where the mask is 0 (Balasubramanian & Feizi 2023).

    The mask travels with the activations. Before a convolution the missing pixels take the mean of their known
    neighbours, as far inwards as the kernel is wide; after it the mask is pooled by maximum as the kernel moves, and
    what is missing is 0. Means over locations count the known ones. CNNs only: other mixing of locations (attention,
    flattening before a linear layer) sees 0 where the image is missing.

    Args:
        model: maps images to logits (B, K); it is left as it was found.
        images: (B, C, H, W) float.
        masks: (B, H, W) or (H, W), 1 where the image is known.

    Raises:
        RectifyError: a mask of another size or without a known pixel.
    """
    known = masks.expand(len(images), *masks.shape[-2:]) if masks.ndim == 2 else masks
    if known.shape != (images.shape[0], *images.shape[2:]):
        raise RectifyError(f"masks {tuple(masks.shape)} do not fit images {tuple(images.shape)}; make them (B, H, W).")
    known = (known > 0.5).to(images.dtype)[:, None]
    if not bool(known.flatten(1).any(1).all()):
        raise RectifyError("layer_masked_logits: a mask keeps no pixel; keep at least one of each image.")
    with frozen_eval(model):
        # what is missing is replaced at once, so that normalisation and all else cannot see it
        logits = logits_of(model, _masked(images.detach() * known, known))
    return logits.as_subclass(Tensor)


class _Masked(Tensor):
    """Activations (B, c, h, w) with `known` (B, 1, h, w); functions of torch carry it along."""

    known: Tensor

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [value.known for value in _flat(args) if isinstance(value, _Masked) and hasattr(value, "known")]
        with torch._C.DisableTorchFunctionSubclass():
            plain, options = _plain(args), _plain(kwargs or {})
            if not masks:
                return func(*plain, **options)
            known = masks[0]
            for other in masks[1:]:  # a sum of two branches is known where either is
                if other.shape == known.shape:
                    known = torch.maximum(known, other)
            rule = _RULES.get(func)
            if rule is not None and plain[0].ndim == 4:
                return rule(func, known, *plain, **options)
            result = func(*plain, **options)
            if isinstance(result, Tensor) and result.ndim == 4:
                # a shift (of a batch norm, a bias) would stand where the image is missing, and a flattening pass it on
                known = _fitted(known, result)
                return _masked(torch.where(known > 0, result, 0), known) if result.is_floating_point() else result
            return result


def _masked(values: Tensor, known: Tensor) -> Tensor:
    masked = values.as_subclass(_Masked)
    masked.known = known
    return masked


def _fitted(known: Tensor, values: Tensor) -> Tensor:
    size = values.shape[2:]
    return known if known.shape[2:] == size else F.adaptive_max_pool2d(known, tuple(size))


def filled_from_neighbours(values: Tensor, known: Tensor, rounds: int) -> Tensor:
    """Return (B, c, h, w) with unknown pixels set, `rounds` pixels deep, to the mean of the known ones around them.

    Args:
        known: (B, 1, h, w) of 0 and 1; further in than `rounds` pixels there is 0.
    """
    window = values.new_ones(1, 1, 3, 3)
    each = window.expand(values.shape[1], 1, 3, 3)
    values = values * known
    for _ in range(rounds):
        count = F.conv2d(known, window, padding=1)
        total = F.conv2d(values, each, padding=1, groups=values.shape[1])
        values = torch.where(known > 0, values, total / count.clamp_min(1))
        known = (count > 0).to(values.dtype)
    return values


def _convolution(
    func: Callable,
    known: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    width = max(weight.shape[2:])
    if width > 1:
        values = filled_from_neighbours(values, known, width)
    result = func(values, weight, bias, stride, padding, dilation, groups)
    reach = weight.new_ones(1, 1, *weight.shape[2:])
    after = (F.conv2d(known, reach, None, stride, padding, dilation) > 0).to(values.dtype)  # maximum over the window
    return _masked(result * after, after)


def _maximum(func: Callable, known: Tensor, values: Tensor, *args: Any, **options: Any) -> Tensor:
    after = func(known, *args, **options)
    return _masked(torch.where(after > 0, func(_least(values, known), *args, **options), 0), after)


def _average(func: Callable, known: Tensor, values: Tensor, *args: Any, **options: Any) -> Tensor:
    # over that of a whole mask: padding that counts into the average lessens both alike
    share = func(known, *args, **options) / func(torch.ones_like(known), *args, **options).clamp_min(1e-12)
    return _masked(func(values * known, *args, **options) / share.clamp_min(1e-12), (share > 0).to(values.dtype))


def _mean(func: Callable, known: Tensor, values: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    places = {place % 4 for place in ([dim] if isinstance(dim, int) else dim or range(4))}
    if places != {2, 3}:
        return func(values, dim, keepdim)
    total = (values * known).sum((2, 3), keepdim=keepdim)
    return total / known.sum((2, 3), keepdim=keepdim).clamp_min(1e-12)


def _largest(func: Callable, known: Tensor, values: Tensor, dim: Any = (), keepdim: bool = False, **_: Any) -> Tensor:
    over = {place % 4 for place in ([dim] if isinstance(dim, int) else dim)}
    return func(_least(values, known) if over == {2, 3} else values, dim, keepdim)


def _least(values: Tensor, known: Tensor) -> Tensor:
    """What is missing is no maximum."""
    return torch.where(known > 0, values, torch.finfo(values.dtype).min)


_RULES: dict[Any, Callable] = {
    torch.conv2d: _convolution,
    F.max_pool2d: _maximum,
    torch.max_pool2d: _maximum,
    F.adaptive_max_pool2d: _maximum,
    torch.amax: _largest,
    Tensor.amax: _largest,
    F.avg_pool2d: _average,
    F.adaptive_avg_pool2d: _average,
    torch.mean: _mean,
    Tensor.mean: _mean,
}


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [inner for part in value for inner in _flat(part)]
    return [value]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value.as_subclass(Tensor) if isinstance(value, _Masked) else value
