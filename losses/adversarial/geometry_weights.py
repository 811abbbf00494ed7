"""GAIRAT's weights, from how many attack steps a sample survives."""

from typing import Literal

from torch import Tensor

from ...errors import RectifyError
from .weighting import Seen, Term, Weighting, global_mean_one


class GeometryWeights(Weighting):
    """w ∝ (1 + tanh(Λ + 5·(1 - κ/⌊K/2⌋))) / 2 with mean 1; κ of K forward passes of the attack found x right.

    κ counts all right passes, not those before the first failure (Zhang et al. 2021, arXiv 2010.01736, and their code).

    Args:
        lam: Λ; -1 in the published runs.
        shape: `tanh`, `sigmoid` (of the same argument) or `discrete`, (K + 1 - κ)/(K + 1).
        start, term: see Weighting; published at half of the training.
    """

    needs_label = True
    least_steps = 2

    def __init__(
        self,
        lam: float = -1.0,
        shape: Literal["tanh", "sigmoid", "discrete"] = "tanh",
        start: float = 0.0,
        term: Term = "all",
    ):
        super().__init__(start, term)
        if shape not in ("tanh", "sigmoid", "discrete"):
            raise RectifyError(f"GeometryWeights: shape is {shape!r}; choose tanh, sigmoid or discrete.")
        self.lam, self.shape = lam, shape

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        assert seen.evidence is not None and seen.evidence.survived is not None
        steps, survived = seen.evidence.steps, seen.evidence.survived.to(seen.loss.dtype)
        if self.shape == "discrete":
            return global_mean_one((steps + 1 - survived) / (steps + 1))
        near = self.lam + 5 * (1 - survived / (steps // 2))
        return global_mean_one((1 + near.tanh()) / 2 if self.shape == "tanh" else near.sigmoid())
