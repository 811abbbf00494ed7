"""Refuse at the start what is known not to work on a strategy, in one sentence that names the remedy.

Each rule was found by experiment: without it the run crashes late or, worse, trains something else.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler, WeightAveraging
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities.model_helpers import is_overridden

from ..errors import RectifyError
from .deepspeed import DeepSpeed
from .elementwise import moves_without_gradient

Kind = Literal["replicated", "fsdp1", "fsdp2", "zero0", "zero1", "zero2", "zero3"]
SPLIT_WEIGHTS = ("fsdp1", "fsdp2", "zero3")
DEEPSPEED = ("zero0", "zero1", "zero2", "zero3")


def kind(strategy: Strategy) -> Kind:
    """Name how a strategy holds weights: `replicated` is one process and DDP."""
    if isinstance(strategy, DeepSpeedStrategy):
        config = strategy.config if isinstance(strategy.config, dict) else {}
        return f"zero{config.get('zero_optimization', {}).get('stage', 0)}"  # type: ignore[return-value]
    if isinstance(strategy, ModelParallelStrategy):
        return "fsdp2"
    return "fsdp1" if isinstance(strategy, FSDPStrategy) else "replicated"


class Setting(NamedTuple):
    """What a rule looks at."""

    kind: Kind
    trainer: Trainer
    module: LightningModule
    parts: tuple[Any, ...]  # the objective and the callbacks

    def declaring(self, flag: str) -> str:
        """Class names of the parts that declare `flag`, joined; empty if none."""
        return ", ".join(type(part).__name__ for part in self.parts if getattr(part, flag, False))

    def groups(self) -> Iterable[tuple[torch.optim.Optimizer, dict[str, Any]]]:
        """Optimizers with their parameter groups; none before they are built."""
        for optimizer in self.trainer.strategy._optimizers:
            while not isinstance(optimizer, torch.optim.Optimizer) and hasattr(optimizer, "optimizer"):
                optimizer = optimizer.optimizer  # DeepSpeed's wrapper holds the user's
            for group in optimizer.param_groups:
                yield optimizer, group


class Rule(NamedTuple):
    """One combination that does not work.

    Attributes:
        broken: what offends (falsy if nothing does), put into the sentence as `{found}`; `{kind}` is the strategy.
    """

    name: str
    sentence: str
    broken: Callable[[Setting], Any]


def _averaging(setting: Setting) -> str:
    names = [type(part).__name__ for part in setting.parts if isinstance(part, WeightAveraging)]
    return ", ".join(names) or setting.declaring("averages_weights")


def _masked_decay(setting: Setting) -> Any:
    if not setting.declaring("masks_weights"):
        return None
    return next((group["weight_decay"] for _, group in setting.groups() if group.get("weight_decay")), None)


def _masked_matrix(setting: Setting) -> Any:
    if not setting.declaring("masks_weights"):
        return None
    return next(
        (
            type(optimizer).__name__
            for optimizer, _ in setting.groups()
            if type(optimizer).__name__ in ("Muon", "LBFGS", "Shampoo") or moves_without_gradient(optimizer)
        ),
        None,
    )


def _acting_after_step(setting: Setting) -> list[Any]:
    """The objective, if it does something after each step: the contract's own method, found by name, does nothing."""
    acting = []
    for part in setting.parts:
        contract = next((base for base in type(part).__mro__ if base.__name__ == "Objective"), None)
        if contract is not None and getattr(type(part), "after_step", None) is not vars(contract).get("after_step"):
            acting.append(part)
    return acting


def _writes_after_step(setting: Setting) -> str:
    return ", ".join(type(part).__name__ for part in _acting_after_step(setting) if part.writes_weights)


def _moves_copies(setting: Setting) -> str:
    return ", ".join(type(part).__name__ for part in _acting_after_step(setting) if part.frozen_copies)


def _overrides(setting: Setting) -> str:
    names = ("backward", "configure_gradient_clipping")
    return ", ".join(name for name in names if is_overridden(name, setting.module, LightningModule))


RULES = (
    Rule(
        "double_backward",
        "{found} differentiates through a gradient, which {kind} cannot because it frees weights in between; "
        "use ddp, zero1 or zero2.",
        lambda s: s.kind in SPLIT_WEIGHTS and s.declaring("double_backward"),
    ),
    Rule(
        "whole_weights",
        "{found} reads all weights outside a forward pass, where {kind} has freed them; use ddp, fsdp2 or zero2.",
        lambda s: s.kind == "zero3" and s.declaring("whole_weights"),
    ),
    Rule(
        "writes_weights",
        "{found} moves weights, in place or in a copy it calls, of which {kind} holds a part on each rank; use ddp.",
        lambda s: s.kind in SPLIT_WEIGHTS and s.declaring("writes_weights"),
    ),
    Rule(
        "writes_after_step",
        "{found} moves weights after the optimizer step, which {kind} overwrites with its master weights; use ddp.",
        lambda s: s.kind in DEEPSPEED and _writes_after_step(s),
    ),
    Rule(
        "moving_copies",
        "{found} moves a copy of the backbone after each step, of which {kind} holds a part; use ddp, fsdp2 or zero2.",
        lambda s: s.kind == "zero3" and _moves_copies(s),
    ),
    Rule(
        "averaged_weights",
        "{found} averages weights that {kind} splits or saves by itself, so the average would be lost; use ddp.",
        lambda s: s.kind != "replicated" and _averaging(s),
    ),
    Rule(
        "masked_decay",
        "a weight mask is set but the optimizer has weight_decay {found}, which moves weights outside the mask; "
        "set the optimizer's weight_decay to 0 and give the decay to the mask.",
        _masked_decay,
    ),
    Rule(
        "masked_matrix_optimizer",
        "a weight mask is set but {found} moves weights that get no gradient (it mixes the entries of a matrix, decays "
        "or adds noise); use SGD, Adam or another elementwise optimizer without decay.",
        _masked_matrix,
    ),
    Rule(
        "plain_deepspeed",
        "{found} divides gradients by accumulate_grad_batches twice and rounds master weights under bf16; "
        "use strategy DeepSpeed (configs/trainer/zero1.yaml to zero3.yaml).",
        lambda s: (
            s.kind in DEEPSPEED
            and not isinstance(s.trainer.strategy, DeepSpeed)
            and type(s.trainer.strategy).__name__
        ),
    ),
    Rule(
        "clip_by_value",
        "trainer.gradient_clip_algorithm is value, and {kind} clips by norm only; use norm, or ddp.",
        lambda s: s.kind in (*DEEPSPEED, "fsdp1") and "value" in str(s.trainer.gradient_clip_algorithm).lower(),
    ),
    Rule(
        "ignored_hooks",
        "{found} of {module} is overridden, and {kind} never calls it; use ddp or fsdp2.",
        lambda s: s.kind in DEEPSPEED and _overrides(s),
    ),
    Rule(
        "accumulation_schedule",
        "{found} changes accumulate_grad_batches during training, and {kind} fixes it at the start; "
        "set trainer.accumulate_grad_batches, or use ddp.",
        lambda s: (
            s.kind in DEEPSPEED
            and next((type(p).__name__ for p in s.parts if isinstance(p, GradientAccumulationScheduler)), None)
        ),
    ),
    Rule(
        "sync_batchnorm",
        "trainer.sync_batchnorm is set, and {kind} ignores it; use ddp, or a backbone with norm: group.",
        lambda s: s.kind != "replicated" and getattr(s.trainer.strategy, "_layer_sync", None),
    ),
    Rule(
        "fsdp1",
        "FSDPStrategy cannot clip gradients by norm; use strategy FSDP2 (configs/trainer/fsdp2.yaml).",
        lambda s: s.kind == "fsdp1",
    ),
    Rule(
        "tensor_parallel",
        "tensor_parallel_size is {found}, and nothing here splits single layers; use strategy FSDP2.",
        lambda s: (
            s.kind == "fsdp2"
            and (size := getattr(s.trainer.strategy, "_tensor_parallel_size", 1)) != 1
            and size
        ),
    ),
    Rule(
        "lbfgs",
        "LBFGS flattens all weights into one vector, which {kind} splits over ranks; use ddp.",
        lambda s: s.kind != "replicated" and any(isinstance(o, torch.optim.LBFGS) for o, _ in s.groups()),
    ),
)  # fmt: skip


def check(trainer: Trainer, module: LightningModule) -> None:
    """Refuse what cannot work. Call in `setup`, and again in `on_fit_start`, when the optimizers exist.

    Objectives and callbacks are judged by what they declare: `double_backward`, `whole_weights`, `writes_weights`,
    `averages_weights`, `masks_weights` (callbacks).

    Raises:
        RectifyError: the first rule that is broken, in one sentence.
    """
    parts = (getattr(module, "objective", None), *trainer.callbacks)  # type: ignore[attr-defined]
    setting = Setting(kind(trainer.strategy), trainer, module, parts)
    for rule in RULES:
        if found := rule.broken(setting):
            raise RectifyError(rule.sentence.format(found=found, kind=setting.kind, module=type(module).__name__))
