"""DONE's weights: the worst distribution over samples within a KL divergence of the uniform one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...collectives import gather_with_gradient, sum_over_ranks
from ...errors import RectifyError
from .weighting import Seen, Term, Weighting, global_mean_one


class KLDROWeights(Weighting):
    """w_i = π_i·exp(l_i/r) / u with u a moving average over steps of the mean of π·exp(l/r) over all ranks' samples.

    The closed form of max_w Σ w_i·l_i - r·KL(w || π): r → ∞ weighs by the prior, r → 0 (at momentum 1) puts all on the
    worst sample. The average is that of compositional optimisation, u_t = (1 - η)·u_{t-1} + η·mean, kept as a logarithm
    in a buffer; no weight exceeds B/η. Sow et al. 2024, arXiv 2308.00311.

    Args:
        temperature: r > 0, in units of the loss.
        momentum: η in (0, 1]; 1 takes each batch for itself.
        prior: π: another weighting (GAIRAT's gives DONE + GAIRAT), or a probability of each class; uniform by default.
        start, term: see Weighting.

    Raises:
        RectifyError: r ≤ 0, η outside (0, 1], class probabilities that are not above 0, do not sum to 1, or are not as
            many as the network has classes.
    """

    log_average: Tensor
    started: Tensor
    class_prior: Tensor | None

    def __init__(
        self,
        temperature: float = 1.0,
        momentum: float = 0.1,
        prior: Weighting | Sequence[float] | None = None,
        start: float = 0.0,
        term: Term = "all",
    ):
        super().__init__(start, term)
        if not temperature > 0:
            raise RectifyError(f"KLDROWeights: temperature is {temperature}; it must be above 0.")
        if not 0 < momentum <= 1:
            raise RectifyError(f"KLDROWeights: momentum is {momentum}; it must lie in (0, 1].")
        self.temperature, self.momentum = temperature, momentum
        self.prior = prior if isinstance(prior, Weighting) else None
        classes = None if prior is None or self.prior is not None else torch.tensor(list(prior))  # type: ignore[arg-type]
        if classes is not None and not bool((classes > 0).all()):
            raise RectifyError(
                f"KLDROWeights: prior holds {float(classes.min()):g}; the probability of each class must be above 0."
            )
        if classes is not None and abs(float(classes.sum()) - 1) > 1e-3:
            raise RectifyError(f"KLDROWeights: prior sums to {float(classes.sum()):g}; class probabilities sum to 1.")
        self.register_buffer("class_prior", classes, persistent=False)
        self.register_buffer("log_average", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        if self.prior is not None:
            self.needs_clean, self.least_steps = self.prior.needs_clean, self.prior.least_steps
        self.needs_label = classes is not None or (self.prior is not None and self.prior.needs_label)

    def setup(self, backbone: nn.Module) -> None:
        if self.prior is not None:
            self.prior.setup(backbone)
        self._check_classes(getattr(backbone, "classes", None))

    def _check_classes(self, classes: int | None) -> None:
        if self.class_prior is not None and classes is not None and len(self.class_prior) != classes:
            raise RectifyError(
                f"KLDROWeights: prior has {len(self.class_prior)} entries for {classes} classes; give the probability "
                "of each class."
            )

    def weigh(self, seen: Seen, update: bool) -> Tensor:
        heat = seen.loss / self.temperature
        prior = self._prior(seen, update)
        if prior is not None:
            heat = heat + prior.log()
        average = self._average(heat)
        if update:
            self.log_average.copy_(average)
            self.started.fill_(True)
        return (heat - average).exp()

    def _average(self, heat: Tensor) -> Tensor:
        """Return log u of this step."""
        count = sum_over_ranks(torch.ones_like(heat).sum())
        ranks = gather_with_gradient(torch.logsumexp(heat, 0, keepdim=True))
        now = torch.logsumexp(ranks, 0) - count.log()
        if self.momentum == 1:
            return now
        kept = self.log_average.to(heat.dtype) + math.log1p(-self.momentum)
        return torch.where(self.started, torch.logaddexp(kept, now + math.log(self.momentum)), now)

    def _prior(self, seen: Seen, update: bool) -> Tensor | None:
        if self.prior is not None:
            return global_mean_one(self.prior(seen, update))
        if self.class_prior is not None:
            self._check_classes(seen.adversarial.shape[1])
            return global_mean_one(self.class_prior.to(seen.loss.dtype)[seen.label])
        return None
