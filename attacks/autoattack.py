"""AutoAttack (Croce and Hein 2020), run by the authors' package."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..ratio import Number
from ._arguments import EPS, check_budget, check_choice
from ._undisturbed import sharded, undisturbed
from .apgd import Norm
from .attack import Attack
from .evidence import AdversarialBatch, Budget, Evidence
from .gains import CrossEntropyGain, Gain

TARGETS = 9


class AutoAttack(Attack):
    """The standard ensemble: APGD-CE, targeted APGD, targeted FAB and Square, from the package `pyautoattack`.

    Chosen because it is the authors' own code under the MIT licence, needs nothing else, and is what RobustBench runs.
    It draws from torch's global random state, which is restored. With fewer than 10 classes it aims at all wrong ones.

    Args:
        eps: radius, in pixels in [0, 1] (L∞) or their L2 distance.
        norm: `linf` or `l2`.
        queries: of the Square attack.

    Raises:
        RectifyError: the package is missing, the weights are split over ranks, or there are fewer than 4 classes.
    """

    needs_label = True

    def __init__(self, eps: Number = EPS, norm: Norm = "linf", queries: int = 5000):
        check_choice("AutoAttack", "norm", norm, ("linf", "l2"))
        check_budget("AutoAttack", eps, eps, 1, norm)
        if find_spec("pyautoattack") is None:
            raise RectifyError(
                "AutoAttack needs pyautoattack; run pip install 'lightning-rectify[autoattack]', or use FastAutoAttack."
            )
        self.eps, self.norm, self.queries, self.steps = float(eps), norm, queries, 100
        self.passes = float(101 * (1 + TARGETS) + 300 * TARGETS + queries / 2)

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
        from pyautoattack import AutoAttack as Ensemble

        target = self._checked(image, target, loss or CrossEntropyGain())
        if sharded(backbone):
            raise RectifyError(
                "AutoAttack makes other passes on every rank, which split weights forbid; use FastAutoAttack, or ddp."
            )
        seed = 0 if generator is None else generator.initial_seed() % 2**31
        devices = [image.device] if image.device.type == "cuda" else []
        with undisturbed(backbone, False), torch.enable_grad(), torch.random.fork_rng(devices):
            with torch.no_grad():
                clean_logits = backbone(image)
            classes = clean_logits.shape[1]
            if classes < 4:
                raise RectifyError(f"AutoAttack needs at least 4 classes and the network has {classes}.")
            norm = {"linf": "Linf", "l2": "L2"}[self.norm]
            ensemble = Ensemble(backbone, norm=norm, eps=self.eps, seed=seed, device=image.device)
            ensemble.verbose = False
            ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(TARGETS, classes - 1)
            ensemble.square.n_queries = self.queries
            x, _ = ensemble.run_standard_evaluation(image, target, batch_size=len(image))
            with torch.no_grad():
                logits = backbone(x)
        evidence = Evidence(None, self.steps, logits.float(), clean_logits.float() if clean else None)
        return AdversarialBatch(x.detach(), evidence)
