"""MAIL's weights, from the probability margin of the adversarial image."""

from torch import Tensor

from ...attacks import margin
from .weighting import Seen, Term, Weighting, global_mean_one


class MarginWeights(Weighting):
    """w = 3·sigmoid(slope·(m + bias)), m the largest wrong probability minus the right one on the adversarial image.

    The factor 3 and the missing normalisation are those of the published code; the paper normalises (Wang et al. 2021,
    arXiv 2106.07904).

    Args:
        slope, bias: published 10 and -0.5 on cross-entropy, 2 and 0 on the robust term of TRADES.
        normalize: scale the weights to a mean of 1 over the batch instead.
        start, term: see Weighting; published at epoch 76 of 120.
    """

    needs_label = True

    def __init__(
        self,
        slope: float = 10.0,
        bias: float = -0.5,
        normalize: bool = False,
        start: float = 0.0,
        term: Term = "all",
    ):
        super().__init__(start, term)
        self.slope, self.bias, self.normalize = slope, bias, normalize

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        weight = 3 * (self.slope * (margin(seen.adversarial.softmax(1), seen.label) + self.bias)).sigmoid()
        return global_mean_one(weight) if self.normalize else weight
