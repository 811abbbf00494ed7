"""Gradients of the cross-entropy over whole sets of samples, and their squares, without a trace on the network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...collectives import is_distributed, sum_over_ranks
from ...errors import RectifyError
from ...frozen import frozen_eval
from ...metrics.deduplicator import Deduplicator
from .edit import Batches

Weights = dict[str, Tensor]


@contextmanager
def looked_at(backbone: nn.Module, name: str) -> Iterator[Weights]:
    """Give the trainable weights as tensors of their own, sharing memory, while the network is in evaluation mode.

    Raises:
        RectifyError: nothing is trainable, or weights are split over ranks. `name` is that of the edit.
    """
    weights = {key: p for key, p in backbone.named_parameters() if p.requires_grad}
    if not weights:
        raise RectifyError(f"{name}: no weight of the backbone requires a gradient; unfreeze what may be edited.")
    if any(hasattr(p, "placements") or hasattr(p, "ds_id") for p in weights.values()):
        raise RectifyError(
            f"{name} edits whole weights, which this strategy splits over ranks; use one process or ddp."
        )
    # the fused attention kernels know neither forward-mode derivatives nor batches of them
    with frozen_eval(backbone, input_gradients=True), sdpa_kernel(SDPBackend.MATH):
        yield {key: p.detach() for key, p in weights.items()}


def samples(batches: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (image, label) on the device, each sample once over all ranks; a batch of padding alone comes empty."""
    seen = Deduplicator()
    for batch in batches:
        image, label, index = (batch[key].to(device) for key in ("image", "label", "index"))
        keep = seen.keep(index)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        yield image[keep], label[keep]


def loss_of(backbone: nn.Module, weights: Weights, image: Tensor, label: Tensor) -> Tensor:
    """Return the (n,) cross-entropies at the given weights."""
    return F.cross_entropy(functional_call(backbone, weights, (image,)), label, reduction="none")


def batch_gradient(backbone: nn.Module, weights: Weights, image: Tensor, label: Tensor) -> Weights:
    """Return the gradient of the summed cross-entropy of a batch with one sample or more."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    loss = loss_of(backbone, leaves, image, label).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def sample_gradients(backbone: nn.Module, weights: Weights, image: Tensor, label: Tensor) -> Weights:
    """Return the gradient of each sample's cross-entropy, (n, ...) for each weight."""

    def one(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(backbone, weights, x[None], y[None])[0]

    return vmap(grad(one), in_dims=(None, 0, 0))(weights, image, label)


def total(weights: Weights, parts: Iterator[tuple[Weights, int]]) -> tuple[Weights, int]:
    """Sum (tensors by name, count) over this rank's parts and over the ranks."""
    sums: Weights = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for part, number in parts:
        for name, value in part.items():
            sums[name] += value
        count += number
    device = next(iter(weights.values())).device
    return summed(sums), int(sum_over_ranks(torch.tensor(count, device=device)))


def summed(values: Weights) -> Weights:
    """Sum tensors of equal shapes over the ranks, all in one collective."""
    if not is_distributed():
        return values
    flat = sum_over_ranks(torch.cat([value.flatten() for value in values.values()]))
    pieces = flat.split([value.numel() for value in values.values()])
    return {name: piece.view_as(values[name]) for name, piece in zip(values, pieces, strict=True)}


def summed_gradient(backbone: nn.Module, weights: Weights, batches: Batches) -> tuple[Weights, int]:
    """Return Σ ∇ℓ over the samples of all ranks, and their number."""
    return total(weights, _parts(backbone, weights, batches, batch_gradient))


def fisher_diagonal(
    backbone: nn.Module, weights: Weights, batches: Batches, per_sample: bool, chunk: int = 16
) -> tuple[Weights, int]:
    """Return Σ of squared gradients over all ranks, and how many were summed.

    Args:
        per_sample: square each sample's gradient, the diagonal of the empirical Fisher matrix; otherwise that of each
            batch's mean loss, as published code does, which depends on the batches.
        chunk: samples whose gradients are held at once.
    """

    def of_batch(backbone: nn.Module, weights: Weights, image: Tensor, label: Tensor) -> Weights:
        return {k: (g / len(label)).square() for k, g in batch_gradient(backbone, weights, image, label).items()}

    def of_samples(backbone: nn.Module, weights: Weights, image: Tensor, label: Tensor) -> Weights:
        found: dict[str, Any] = dict.fromkeys(weights, 0)
        for x, y in zip(image.split(chunk), label.split(chunk), strict=True):
            for name, gradient in sample_gradients(backbone, weights, x, y).items():
                found[name] = found[name] + gradient.square().sum(0)
        return found

    return total(weights, _parts(backbone, weights, batches, of_samples if per_sample else of_batch, not per_sample))


def _parts(
    backbone: nn.Module, weights: Weights, batches: Batches, of: Callable[..., Weights], whole: bool = False
) -> Iterator[tuple[Weights, int]]:
    for image, label in samples(batches, next(iter(weights.values())).device):
        if len(label):
            yield of(backbone, weights, image, label), 1 if whole else len(label)


def check_found(name: str, forget: int, retain: int) -> None:
    """Raise RectifyError if one of the sets has no sample."""
    if not forget or not retain:
        empty = "retain" if forget else "forget"
        raise RectifyError(f"{name}: the {empty} set is empty; change data.forget so that both sets have samples.")
