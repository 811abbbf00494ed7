"""What adversarial training minimises in place of the robust error, per sample."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attacks import CrossEntropyGain, DivergenceGain, Gain, margin
from ...errors import RectifyError
from ..base_losses import BaseLoss, CrossEntropy
from ..mixing.plan import MixedTarget

Target = Tensor | MixedTarget


@dataclass(frozen=True)
class Parts:
    """A surrogate's terms, per sample: the loss is the mean of fit + beta·robust.

    Attributes:
        fit: (B,).
        robust: (B,), or None if there is no second term.
    """

    fit: Tensor
    robust: Tensor | None = None
    beta: float = 0.0

    def total(self) -> Tensor:
        """Return fit + beta·robust, (B,)."""
        return self.fit if self.robust is None else self.fit + self.beta * self.robust


class Surrogate(nn.Module):
    """`(adversarial logits, clean logits or None, target) -> Parts`."""

    trains_clean: bool = False
    """Also wants the logits of the images as they are, in training mode."""
    needs_label: bool = False
    """Cannot take the target of a mixture."""
    passes: float = 1.0

    def gain(self) -> Gain:
        """Return what the attack maximises."""
        return CrossEntropyGain()

    def forward(self, adversarial: Tensor, clean: Tensor | None, target: Target) -> Parts:
        raise NotImplementedError


class AdversarialCrossEntropy(Surrogate):
    """A base loss on the adversarial images (PGD-AT, Madry et al. 2018).

    Args:
        base: per-sample loss; cross-entropy by default.
    """

    def __init__(self, base: BaseLoss | None = None):
        super().__init__()
        self.base = base or CrossEntropy()

    def forward(self, adversarial: Tensor, clean: Tensor | None, target: Target) -> Parts:
        return Parts(_base_loss(adversarial, target, self.base))


class Trades(Surrogate):
    """CE + β·KL(clean || adversarial), both branches trained (Zhang et al. 2019, arXiv 1901.08573).

    Args:
        beta: β > 0; the paper's is 6.
        cross_entropy: on which images the cross-entropy is taken: `natural` as in TRADES, or `adversarial` (WEAT_adv).
    """

    trains_clean = True
    passes = 2.0

    def __init__(self, beta: float = 6.0, cross_entropy: Literal["natural", "adversarial"] = "natural"):
        super().__init__()
        self.beta = _check_beta("Trades", beta)
        if cross_entropy not in ("natural", "adversarial"):
            raise RectifyError(f"Trades: cross_entropy is {cross_entropy!r}; choose natural or adversarial.")
        self.cross_entropy = cross_entropy
        self.base = CrossEntropy()

    def gain(self) -> Gain:
        return DivergenceGain()

    def forward(self, adversarial: Tensor, clean: Tensor | None, target: Target) -> Parts:
        assert clean is not None
        fitted = clean if self.cross_entropy == "natural" else adversarial
        return Parts(_base_loss(fitted, target, self.base), _divergence(clean, adversarial), self.beta)


class Mart(Surrogate):
    """BCE(adversarial) + β·KL(clean || adversarial)·(1 - p_clean(y)) (Wang et al. 2020), with the published constants.

    BCE is cross-entropy plus -log(1.0001 - p), p the largest wrong probability.

    Args:
        beta: β > 0; published 5 (ResNet-18) and 6 (WRN-34-10).
    """

    trains_clean = True
    needs_label = True
    passes = 2.0

    def __init__(self, beta: float = 5.0):
        super().__init__()
        self.beta = _check_beta("Mart", beta)

    def forward(self, adversarial: Tensor, clean: Tensor | None, target: Target) -> Parts:
        assert clean is not None and isinstance(target, Tensor)
        probability = adversarial.softmax(1)
        wrong = margin(probability, target) + probability.gather(1, target[:, None]).squeeze(1)
        boosted = F.cross_entropy(adversarial, target, reduction="none") - torch.log(1.0001 - wrong + 1e-12)
        doubt = 1.0000001 - clean.softmax(1).gather(1, target[:, None]).squeeze(1)
        return Parts(boosted, _divergence(clean, adversarial) * doubt, self.beta)


def _base_loss(logits: Tensor, target: Any, base: BaseLoss) -> Tensor:
    return base(logits, target) if isinstance(target, Tensor) else target.per_sample(logits, base)


def _divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    return F.kl_div(adversarial.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


def _check_beta(name: str, beta: float) -> float:
    if not beta > 0:
        raise RectifyError(f"{name}: beta is {beta}; it must be above 0.")
    return beta
