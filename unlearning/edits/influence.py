"""Influence unlearning (Izzo et al. 2021; in the form of Jia et al. 2023, arXiv 2304.04934)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import jvp

from ...collectives import sum_over_ranks, world_size
from ...errors import RectifyError
from ._gradients import Weights, check_found, looked_at, loss_of, samples, summed, summed_gradient
from .edit import Batches, Edit


class Influence(Edit):
    """θ ← θ + α · (δ·I + F)⁻¹ v, one Newton step from the mean loss over all samples to that over the retained ones.

    v = Σ_forget ∇ℓ / n - (n_f / (n · n_r)) · Σ_retain ∇ℓ is the difference of the two gradients, F the empirical Fisher
    matrix of retained samples. The product is found by conjugate gradients, with two passes an iteration; the published
    WoodFisher recursion approximates the same product from one pass over single samples. Nothing of the size of F is
    ever held.

    Args:
        alpha: α; published range 1 to 20.
        samples: retained samples that F is taken over, the first of the loader; published 1000.
        damping: δ > 0; 1 in the published code.
        iterations: most iterations.
        tolerance: ends them when the residual has fallen to this share of ‖v‖.

    Raises:
        RectifyError: a value out of range.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        samples: int = 1000,
        damping: float = 1.0,
        iterations: int = 50,
        tolerance: float = 1e-4,
    ):
        for name, value in (("samples", samples), ("iterations", iterations)):
            if value < 1:
                raise RectifyError(f"Influence: {name} is {value}; give at least 1.")
        for name, amount in (("damping", damping), ("tolerance", tolerance)):
            if not amount > 0:
                raise RectifyError(f"Influence: {name} is {amount}; it must be above 0.")
        self.alpha, self.samples, self.damping = alpha, samples, damping
        self.iterations, self.tolerance = iterations, tolerance

    def apply(self, backbone: nn.Module, forget: Batches, retain: Batches) -> None:
        with looked_at(backbone, "Influence") as weights:
            of_forget, n_forget = summed_gradient(backbone, weights, forget)
            of_retain, n_retain = summed_gradient(backbone, weights, retain)
            check_found("Influence", n_forget, n_retain)
            n = n_forget + n_retain
            v = {k: of_forget[k] / n - of_retain[k] * (n_forget / (n * n_retain)) for k in weights}
            held = list(self._first(retain, next(iter(weights.values())).device))
            step = self._solve(backbone, weights, held, v)
        for name, weight in weights.items():
            weight.add_(step[name], alpha=self.alpha)

    def _first(self, retain: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share of the first samples; they are read whole, since conjugate gradients repeat them."""
        left = -(-self.samples // world_size())
        for image, label in samples(retain, device):
            if left > 0 and len(label):
                yield image[:left], label[:left]
                left -= len(label)

    def _solve(self, backbone: nn.Module, weights: Weights, held: list[tuple[Tensor, Tensor]], v: Weights) -> Weights:
        x = {k: torch.zeros_like(value) for k, value in v.items()}
        residual, direction = dict(v), dict(v)
        square = _dot(residual, residual)
        goal = square * self.tolerance**2
        for _ in range(self.iterations):
            if square <= goal:
                break
            product = self._product(backbone, weights, held, direction)
            length = square / _dot(direction, product)
            x = {k: x[k] + length * direction[k] for k in x}
            residual = {k: residual[k] - length * product[k] for k in x}
            before, square = square, _dot(residual, residual)
            direction = {k: residual[k] + (square / before) * direction[k] for k in x}
        return x

    def _product(self, backbone: nn.Module, weights: Weights, held: list[tuple[Tensor, Tensor]], x: Weights) -> Weights:
        """(δ·I + F) x: Σ g (g·x) is the gradient of the losses weighted by their own derivatives along x."""
        sums = {k: torch.zeros_like(value) for k, value in x.items()}
        count = sum(len(label) for _, label in held)
        for image, label in held:
            along = jvp(lambda w, i=image, y=label: loss_of(backbone, w, i, y), (weights,), (x,))[1]
            leaves = {k: value.detach().requires_grad_() for k, value in weights.items()}
            loss = (loss_of(backbone, leaves, image, label) * along.detach()).sum()
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                total += gradient
        everywhere = sum_over_ranks(torch.tensor(count, device=next(iter(x.values())).device))
        sums = summed(sums)
        return {k: self.damping * x[k] + sums[k] / everywhere for k in x}


def _dot(a: Weights, b: Weights) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()
