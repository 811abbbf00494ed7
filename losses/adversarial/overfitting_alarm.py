"""An alarm for catastrophic overfitting: single-step training that suddenly protects against nothing but itself."""

import warnings

import torch
from torch import Tensor, nn

from ...attacks import PGD, Attack
from ...collectives import rank, sum_over_ranks
from ...errors import RectifyError
from ..objective import Context


class OverfittingAlarm(nn.Module):
    """Attack every n-th training batch with many steps and warn when the accuracy under it falls below its best.

    Logs `pgd_accuracy` (over all ranks; that of the last check in between) and `overfitting_alarm`, 1 once it rang. A
    check costs the attack and one host sync. The accuracy is that before the attack's last step.

    Args:
        attack: PGD-10 at 8/255 by default.
        every: optimizer steps between checks.
        drop: fall below the best, in (0, 1); 0.2 is that of Wong et al. 2020 (arXiv 2001.03994).
    """

    best: Tensor
    latest: Tensor
    rang: Tensor

    def __init__(self, attack: Attack | None = None, every: int = 100, drop: float = 0.2):
        super().__init__()
        if every < 1:
            raise RectifyError(f"OverfittingAlarm: every is {every}; give a number of steps, 1 or more.")
        if not 0 < drop < 1:
            raise RectifyError(f"OverfittingAlarm: drop is {drop}; it must lie in (0, 1).")
        self.attack, self.every, self.drop = attack or PGD(), every, drop
        for name in ("best", "latest", "rang"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, backbone: nn.Module, image: Tensor, label: Tensor, context: Context) -> dict[str, Tensor]:
        """Return the terms to log; every rank must call this at the same steps."""
        if context.step % self.every == 0:
            seen = self.attack(backbone, image, label, generator=context.generator("alarm", image.device)).evidence
            right = (seen.logits.argmax(1) == label).float()
            hits, count = sum_over_ranks(torch.stack([right.sum(), torch.ones_like(right).sum()]))
            self._judge(hits / count, context.step)
        return {"pgd_accuracy": self.latest.clone(), "overfitting_alarm": self.rang.clone()}

    def _judge(self, accuracy: Tensor, step: int) -> None:
        self.latest.copy_(accuracy)
        self.best.copy_(torch.maximum(self.best, accuracy))
        now = float(self.best - accuracy) > self.drop
        if now and not bool(self.rang):
            self.rang.fill_(1)
            if rank() == 0:
                warnings.warn(
                    f"Catastrophic overfitting at step {step}: accuracy under PGD fell from {float(self.best):.1%} to "
                    f"{float(accuracy):.1%}; stop and take an earlier checkpoint, or use more noise or a smaller eps."
                )
