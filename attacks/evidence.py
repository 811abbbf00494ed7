"""What an attack hands over: the images, and what it learned on the way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .gains import margin


@dataclass(frozen=True)
class Budget:
    """Per-sample settings that replace those of the attack; each is (B,) on the images' device, or None.

    Attributes:
        eps: radius, in pixel units.
        step_size: length of a step.
        steps: steps a sample takes, at most those of the attack.
    """

    eps: Tensor | None = None
    step_size: Tensor | None = None
    steps: Tensor | None = None


@dataclass(frozen=True)
class Evidence:
    """By-products of an attack; none of them costs a forward pass.

    Attributes:
        survived: (B,) int64, at how many of the attack's `steps` forward passes, the first at the starting point, the
            sample was classified right (GAIRAT's κ); None if the target was no label. Of the first restart.
        steps: forward passes of a restart.
        logits: (B, K) float32 outputs of the last of these passes, thus before the last step.
        clean: (B, K) float32 outputs for the images as they are, if the loss or the caller asked for them.
        curvature: (B, C, H, W) diagonal Hessian of the lower level at the result, from the log-barrier attack.
    """

    survived: Tensor | None
    steps: int
    logits: Tensor
    clean: Tensor | None = None
    curvature: Tensor | None = None

    def margins(self, label: Tensor) -> Tensor:
        """Return the largest wrong probability minus that of the label (B,), (B,)."""
        return margin(self.logits.softmax(1), label)

    def energy(self) -> Tensor:
        """Return E(x_adv) = -logsumexp(logits), (B,)."""
        return -torch.logsumexp(self.logits, 1)

    def clean_energy(self) -> Tensor | None:
        """Return E(x), (B,), if the clean logits are there."""
        return None if self.clean is None else -torch.logsumexp(self.clean, 1)


@dataclass(frozen=True)
class AdversarialBatch:
    """Adversarial images (B, C, H, W), detached, and the evidence."""

    image: Tensor
    evidence: Evidence
