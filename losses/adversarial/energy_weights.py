"""WEAT's weights, from the energy of the images as they are."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .weighting import Seen, Term, Weighting, global_mean_one


class EnergyWeights(Weighting):
    """w = 1 / log(1 + exp(|E(x)|)), E(x) = -logsumexp(logits) of the clean images, detached and not normalised.

    As published, |E| is symmetric: an energy far above 0 is weighed down like one far below. As |E| grows in training
    the mean weight falls, and the effective learning rate with it. Mirza et al. 2024, arXiv 2407.06315.

    Args:
        start, term: see Weighting; WEAT weighs both terms of TRADES from the start.
        normalize: scale the weights to a mean of 1 over the batch, which keeps the learning rate what it is.
    """

    needs_clean = True

    def __init__(self, start: float = 0.0, term: Term = "all", normalize: bool = False):
        super().__init__(start, term)
        self.normalize = normalize

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        assert seen.clean is not None
        weight = softplus(torch.logsumexp(seen.clean, 1).abs()).reciprocal()
        return global_mean_one(weight) if self.normalize else weight
