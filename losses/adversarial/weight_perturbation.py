"""AWP: train at the weights where the loss is worst nearby."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...collectives import sum_over_ranks
from ...errors import RectifyError

Call = Callable[[Tensor], tuple[Tensor | None, Tensor]]


class AdversarialWeightPerturbation(nn.Module):
    """Loss and gradient at w + γ·‖w‖·g/‖g‖, tensor by tensor, g the gradient of the loss (Wu et al. 2020).

    Tensors of one dimension (biases, norms) stay, as in the published code. Nothing is written into the weights, so
    nothing is restored: the network is called with shifted copies, and d(w + shift)/dw = 1. The ascent gradient is
    averaged over ranks; its pass leaves batch-norm statistics alone. arXiv 2004.05884.

    Args:
        gamma: γ > 0; published 0.01 with PGD-AT and 0.005 with TRADES.
        start: share of the training after which it sets in; published at epoch 10 of 200 with TRADES.
    """

    def __init__(self, gamma: float = 0.01, start: float = 0.0):
        super().__init__()
        if not gamma > 0:
            raise RectifyError(f"AdversarialWeightPerturbation: gamma is {gamma}; it must be above 0.")
        if not 0 <= start <= 1:
            raise RectifyError(f"AdversarialWeightPerturbation: start is {start}; give a fraction in [0, 1].")
        self.gamma, self.start = gamma, start

    def perturbed(self, network: nn.Module, loss: Callable[[Call], Tensor]) -> Call:
        """Return the network as a function at the perturbed weights.

        Args:
            loss: the loss of this batch as a function of the network.
        """
        spare = {name: buffer.clone() for name, buffer in network.named_buffers()}
        weights = {n: p for n, p in network.named_parameters() if p.requires_grad and p.ndim > 1}
        value = loss(lambda x: functional_call(network, spare, (x,)))
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
        ascent = flat.split([weight.numel() for weight in weights.values()])
        shifted = {}
        for (name, weight), step in zip(weights.items(), ascent, strict=True):
            length = self.gamma * weight.detach().norm() / step.norm().clamp_min(torch.finfo(step.dtype).tiny)
            shifted[name] = weight + length * step.view_as(weight)
        return lambda x: functional_call(network, shifted, (x,))
