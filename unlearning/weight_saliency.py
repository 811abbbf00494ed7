"""How much each weight matters for what is to be forgotten: the magnitude of the forget loss's gradient."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..collectives import is_distributed, sum_over_ranks
from ..errors import RectifyError
from ..frozen import frozen_eval
from ..metrics.deduplicator import Deduplicator
from .parameter_names import KINDS, Kind, check_kinds, kinds, plainly_named

SampleLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy_each(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy (n,) of logits (n, K) and labels (n,)."""
    return F.cross_entropy(logits, label, reduction="none")


def saliency_scores(
    network: nn.Module,
    batches: Iterable[Any],
    *,
    loss: SampleLoss = cross_entropy_each,
    reduction: Literal["sum", "mean"] = "sum",
    abs_order: Literal["after", "before"] = "after",
    include: Iterable[Kind] = KINDS,
) -> dict[str, Tensor]:
    """Return `|Σ_i ∇ℓ_i|` of every included parameter that requires a gradient, fp32, by plain name.

    The network is evaluated in eval mode and fp32 and left exactly as it was found. Signed gradients are summed over
    the samples of all ranks before the magnitude is taken. A sample whose `index` came before (padding) has weight 0.
    Scores collect in gradient buffers: the extra memory is one copy of the parameters.

    Args:
        network: a plain module with whole weights, on the device of the batches.
        batches: dicts with `image`, `label` (n,) and `index` (n,), or tuples (image, label); every rank gives as many.
            The index is needed where several processes score.
        loss: per-sample loss (n,) of the logits and the labels; its sign does not matter.
        reduction: `mean` divides by the number of samples; the ranking is the same.
        abs_order: `before` sums the magnitudes of batch gradients, as some published code does; it depends on the
            batches and on the number of ranks.
        include: kinds of parameters that are scored.

    Raises:
        RectifyError: no sample, nothing to score, batches that cannot be read, weights that are split over ranks.

    Source: Fan et al., SalUn (ICLR 2024), eq. 4.
    """
    if reduction not in ("sum", "mean") or abs_order not in ("after", "before"):
        raise RectifyError(
            f"weight saliency: reduction is {reduction} and abs_order {abs_order}; "
            "choose sum or mean, and after or before."
        )
    scored = _scored(network, check_kinds(include, "weight saliency"))
    held = {name: parameter.grad for name, parameter in plainly_named(network)}
    sums: dict[str, Tensor] = {}
    hooks = []
    try:
        with frozen_eval(network, input_gradients=True):
            for name, parameter in scored.items():
                parameter.requires_grad_(True)
                parameter.grad = None
                if parameter.dtype != torch.float32 or abs_order == "before":
                    sums[name] = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
                    take = _taking(sums[name], abs_order == "before")
                    hooks.append(parameter.register_post_accumulate_grad_hook(take))
            count = _accumulate(network, batches, loss)
        for name, parameter in scored.items():
            if name not in sums:
                sums[name] = torch.zeros_like(parameter.detach()) if parameter.grad is None else parameter.grad
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in plainly_named(network):
            parameter.grad = held[name]
    samples = int(sum_over_ranks(count))
    if samples == 0:
        raise RectifyError("weight saliency: the forget set is empty; name a class, a fraction or keys in data.forget.")
    for total in sums.values():
        if is_distributed():
            dist.all_reduce(total)
        total.abs_()
        if reduction == "mean":
            total /= samples
    return {name: sums[name] for name in scored}


def _scored(network: nn.Module, include: tuple[Kind, ...]) -> dict[str, nn.Parameter]:
    kind = kinds(network)
    scored = {}
    for name, parameter in plainly_named(network):
        if hasattr(parameter, "placements") or hasattr(parameter, "ds_id") or parameter.is_meta:
            raise RectifyError(
                f"weight saliency: {name} is split over ranks or not materialised; score the whole network before "
                "training, or give the file of a mask."
            )
        if parameter.requires_grad and kind[name] in include:
            scored[name] = parameter
    if not scored:
        raise RectifyError(
            f"weight saliency: no parameter of {type(network).__name__} is among {', '.join(include)} and requires a "
            "gradient; include more or unfreeze a part."
        )
    return scored


def _taking(total: Tensor, magnitude: bool) -> Callable[[Tensor], None]:
    def take(parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        total.add_(gradient.abs() if magnitude else gradient)
        parameter.grad = None

    return take


def _accumulate(network: nn.Module, batches: Iterable[Any], loss: SampleLoss) -> Tensor:
    """Backpropagate every batch; return the number of samples of this rank."""
    seen = Deduplicator()
    device = next(network.parameters()).device
    count = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches:
        image, label, index = _read(batch)
        if index is None and is_distributed():
            raise RectifyError(
                "weight saliency: the forget batches have no index, so that padding of the ranks would count twice; "
                "give dicts with image, label and index."
            )
        keep = torch.ones_like(label, dtype=torch.bool) if index is None else seen.keep(index)
        losses = loss(network(image), label)
        (losses * keep).sum().backward()
        count += keep.sum()
    return count


def _read(batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    if isinstance(batch, dict) and "image" in batch and "label" in batch:
        return batch["image"], batch["label"], batch.get("index")
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], batch[1], None
    raise RectifyError(
        "weight saliency reads batches that are a dict with image and label, or a tuple (image, label); "
        f"this one is a {type(batch).__name__}."
    )
