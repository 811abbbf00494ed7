"""A controller: training stops before a loss or gradient that is not finite reaches the weights."""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from ..collectives import any_rank, is_distributed
from ..errors import RectifyError


class FiniteLoss(Callback):
    """Stop before the optimizer update when the loss, or a gradient, of any rank is not finite.

    Lightning on its own trains through NaN and may save the result as the best checkpoint. Here the loss is looked at
    on the device before each backward pass; before the update the ranks agree on one flag, which is the only host sync,
    and all of them raise together. The weights and the optimizer are those of the last good step, and whatever tries to
    save a checkpoint afterwards (batch statistics may be spoilt by then) meets the same error.

    Under fp16 with a loss scaler infinite gradients are normal and the scaler skips them, and DeepSpeed keeps gradients
    to itself: there only the loss is checked.

    Terms are looked up among the logged metrics and in the module's `last_terms`, a dict by log key, if it has one.

    Args:
        gradients: also check the gradients of the optimizer's parameters, which a finite loss can spoil (the root of
            zero). It reads every gradient once.

    Raises:
        RectifyError: at the step, naming the step, the objective, the ranks and the logged terms that are not finite.
    """

    def __init__(self, gradients: bool = True) -> None:
        self.gradients = gradients
        self._bad: Tensor | None = None
        self._error: RectifyError | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bad = self._error = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        bad = ~torch.isfinite(loss.detach()).all()
        self._bad = bad if self._bad is None else self._bad | bad  # over the batches of an accumulated step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        loss_bad = self._bad if self._bad is not None else torch.tensor(False)
        self._bad = None
        bad = loss_bad
        if self.gradients and getattr(trainer.precision_plugin, "scaler", None) is None:
            bad = bad | _not_finite(optimizer).to(bad.device)
        if any_rank(bad):
            self._error = RectifyError(_message(trainer, pl_module, bool(loss_bad), bool(bad)))
            raise self._error

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._error is not None:
            raise self._error


def _not_finite(optimizer: Optimizer) -> Tensor:
    """A boolean on the device: does any gradient the optimizer would apply hold NaN or infinity."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    local = [getattr(g, "_local_tensor", g) for g in gradients]  # the shard of a DTensor
    local = [g.float() if g.dtype == torch.float16 else g for g in local if g.numel() and not g.is_sparse]
    if not local:
        return torch.tensor(False)
    # one fused pass; several times faster than a maximum, and only beyond 1e19 a finite gradient overflows in it
    return ~torch.isfinite(torch.nn.utils.get_total_norm(local))


def _message(trainer: Trainer, pl_module: LightningModule, loss_bad: bool, bad: bool) -> str:
    logged = {**trainer.callback_metrics, **getattr(pl_module, "last_terms", {})}
    terms = [name for name, value in logged.items() if not bool(torch.isfinite(torch.as_tensor(value)).all())]
    mine = (loss_bad, bad, terms)
    ranks = [mine]
    if is_distributed():
        ranks = [mine] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
    by_loss = any(rank_loss for rank_loss, _, _ in ranks)  # averaging the gradients spreads it to the other ranks
    where = [rank for rank, (rank_loss, rank_bad, _) in enumerate(ranks) if (rank_loss if by_loss else rank_bad)]
    names = sorted({name for _, _, rank_terms in ranks for name in rank_terms})
    listed = f" (not finite: {', '.join(names)})" if names else ""
    what = "loss" if by_loss else "gradient"
    objective = type(getattr(pl_module, "objective", pl_module)).__name__
    return (
        f"The {what} of {objective} is not finite at step {trainer.global_step} on rank {', '.join(map(str, where))}"
        f"{listed}; the weights are those before the step. Lower the learning rate, set trainer.gradient_clip_val, or "
        "look at the batch."
    )
