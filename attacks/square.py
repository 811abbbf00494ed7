"""The Square Attack (Andriushchenko et al. 2020): random search that sees only logits."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..ratio import Number
from ._arguments import EPS, check_budget, per_sample
from ._view import View
from .attack import Attack
from .balls import linf_box
from .evidence import AdversarialBatch, Budget, Evidence
from .gains import CarliniWagnerMargin, Gain

SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 queries: after each of these the squares' area is halved."""


class Square(Attack):
    """L∞ random search: squares of ±2·eps at random places are kept where they raise the loss (arXiv 1912.00049).

    It uses no gradient, so a network that survives PGD but not this hides its gradient. Vertical stripes of ±eps are
    the start. Unlike the authors' code each sample draws a place of its own, on the device, and the squares shrink over
    the queries there are, as their code does on request. A sample stops moving once it is wrong.

    Args:
        eps: L∞ radius, in pixels in [0, 1].
        queries: forward passes; 5000 is usual for a final figure.
        area: share of the image the first square covers, in (0, 1].
        channels_last: see Attack.
    """

    def __init__(self, eps: Number = EPS, queries: int = 1000, area: float = 0.8, channels_last: bool = False):
        check_budget("Square", eps, eps, 1, "linf")
        if queries < 1:
            raise RectifyError(f"Square: queries is {queries}; at least 1 is needed.")
        if not 0 < area <= 1:
            raise RectifyError(f"Square: area is {area}; it is a share of the image, in (0, 1].")
        self.eps, self.queries, self.area, self.channels_last = float(eps), queries, area, channels_last
        self.passes = queries / 2

    def __call__(
        self,
        backbone: nn.Module,
        image: Tensor,
        target: Any,
        loss: Gain | None = None,
        generator: torch.Generator | None = None,
        budget: Budget | None = None,
        clean: bool = False,
    ) -> AdversarialBatch:
        loss = loss or CarliniWagnerMargin(float("inf"))
        return super().__call__(backbone, image, target, loss, generator, budget, clean)

    @torch.no_grad()
    def search(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> AdversarialBatch:
        eps = per_sample(self.eps if budget.eps is None else budget.eps, image)
        box = linf_box(image, eps)
        count, channels, height, width = image.shape

        def signs(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=image.device).sub_(0.5).sign_().to(image.dtype)

        x = (image + eps * signs(count, channels, 1, width)).clamp_(*box)
        gain, wrong = view.worth(x)
        rows, columns = (torch.arange(n, device=image.device) for n in (height, width))
        for query in range(1, self.queries):
            side = self._side(query, height, width)
            place = torch.rand(2, count, 1, generator=generator, device=image.device)
            top, left = (place[0] * (height - side + 1)).long(), (place[1] * (width - side + 1)).long()
            inside = ((rows >= top) & (rows < top + side))[:, None, :, None]
            inside = inside & ((columns >= left) & (columns < left + side))[:, None, None, :]
            other = (x + inside * (2 * eps * signs(count, channels, 1, 1))).clamp_(*box)
            other_gain, other_wrong = view.worth(other)
            better = ~wrong & ((other_gain > gain) | other_wrong)
            x = torch.where(per_sample(better, image), other, x)
            gain, wrong = torch.where(better, other_gain, gain), wrong | other_wrong
        return AdversarialBatch(x, Evidence(None, self.queries, view._see(x), view.clean))

    def _side(self, query: int, height: int, width: int) -> int:
        place = query / self.queries * 10000
        share = self.area / 2 ** sum(place > shrink for shrink in SHRINKS)
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)
