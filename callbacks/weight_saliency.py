"""A controller: only the weights that matter most for what is to be forgotten move; all others stay bit for bit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..collectives import any_rank, gather_rows
from ..errors import RectifyError
from ..files import atomic_path
from ..losses.objective import Objective
from ..strategies.elementwise import has_history
from ..strategies.gathering import whole_weights
from ..strategies.guard import DEEPSPEED, check, kind
from ..unlearning.density import check_density
from ..unlearning.gradient_mask import mask_gradient
from ..unlearning.off_mask import OffMaskWeights
from ..unlearning.parameter_names import KINDS, Kind, check_kinds, plain_name, plainly_named, whole_shape
from ..unlearning.sanity import mask_sanity
from ..unlearning.weight_mask import WeightMask
from .forget_gradients import mask_of_forget_set, resumes_from_checkpoint

FILE = "weight_saliency.safetensors"


class WeightSaliency(Callback):
    """Train the share `density` of the weights with the largest forget gradient and hold the others.

    Before training the mask is computed from `datamodule.forget_dataloader()` (or read from a file), saved in the run
    folder and described there. Gradients off the mask are zeroed before they are clipped; with momentum, accumulation,
    an average of the weights, bf16 or any strategy, the weights off the mask are those of the start, which is checked
    when training ends. Parameters that are not ranked (`include`, or without gradient) are held whole. Buffers, such as
    batch-norm statistics, are no weights and go on moving. Works on the backbone of our modules, and on the whole of
    any other, whose `forward` must give logits, under any objective or training step. Mask and held weights are part of
    the checkpoint: a resumed run takes them from there.

    Args:
        density: share of the ranked weights that may move, in (0, 1].
        freeze: `exact` refuses optimizers that move weights without a gradient (weight decay of their own, matrix
            optimizers) and raises if a held weight moved; `grad_only` masks the gradient and only reports the drift, as
            published code did.
        mask: file of a mask to use instead of computing one; its density counts.
        weight_decay: coupled decay of the weights on the mask, added to their gradient before clipping.
        scope: rank all weights together or each parameter apart.
        include: kinds of parameters that are ranked: weights, bias, norm.
        abs_order: magnitude of the summed gradient, or sum of the batches' magnitudes.

    Attributes:
        off_mask_drift: after training, the largest difference off the mask; also logged under this name.

    Raises:
        RectifyError: a value out of range, no forget data, a mask of another network, an optimizer that moves held
            weights, a resume from a checkpoint without a mask, or held weights that moved.

    Source: Fan et al., SalUn (ICLR 2024).
    """

    def __init__(
        self,
        density: float = 0.5,
        freeze: Literal["exact", "grad_only"] = "exact",
        mask: str | Path | None = None,
        weight_decay: float = 0.0,
        scope: Literal["global", "layer"] = "global",
        include: Sequence[Kind] = KINDS,
        abs_order: Literal["after", "before"] = "after",
    ):
        check_density(density, "WeightSaliency")
        if weight_decay < 0:
            raise RectifyError(f"WeightSaliency: weight_decay is {weight_decay}; give 0 or more.")
        for key, value, known in (
            ("freeze", freeze, ("exact", "grad_only")),
            ("scope", scope, ("global", "layer")),
            ("abs_order", abs_order, ("after", "before")),
        ):
            if value not in known:
                raise RectifyError(f"WeightSaliency: {key} is {value}; choose {' or '.join(known)}.")
        self.density = density
        self.freeze = freeze
        self.file = mask
        self.weight_decay = weight_decay
        self.scope = scope
        self.include = check_kinds(include, "WeightSaliency")
        self.abs_order = abs_order
        self.masks_weights = freeze == "exact"  # what the strategy guard asks for
        self.off_mask_drift: float | None = None
        self._held: OffMaskWeights | None = None
        self._hooks: list[RemovableHandle] = []
        self._decay_now = 0.0
        self._resumes = False
        self._trainable = 0

    @property
    def mask(self) -> WeightMask | None:
        """The mask in use, from `setup` on (in a resumed run from the start of training on)."""
        return None if self._held is None else self._held.mask

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._held, self.off_mask_drift = None, None
        self._resumes = resumes_from_checkpoint()
        if self._resumes:
            return  # the mask comes with the checkpoint, and these are not the weights it was made from
        network = _network(pl_module)
        if self.file is not None:
            mask = WeightMask.load(self.file)
            mask.check_fits(network, f"WeightSaliency: mask {self.file}")
        else:
            mask = mask_of_forget_set(
                trainer, pl_module, network, self.density,
                scope=self.scope, include=self.include, abs_order=self.abs_order,
            )  # fmt: skip
        self._save(trainer, mask)
        self._held = OffMaskWeights.take(mask, network)
        rank_zero_info(
            f"weight saliency: {mask.ones:,} of {mask.size:,} ranked weights may move (density {mask.density:g}); "
            f"the held ones take {self._held.bytes / 2**20:.1f} MiB of host memory and of each checkpoint"
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check(trainer, pl_module)  # our modules do this themselves, others do not
        if self.weight_decay and getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise RectifyError(
                "WeightSaliency: weight_decay is set, and trainer.precision 16-mixed scales gradients; use bf16-mixed."
            )
        if self.weight_decay and not pl_module.automatic_optimization:
            raise RectifyError(
                f"WeightSaliency: weight_decay is set, and {type(pl_module).__name__} optimizes by hand, so the step "
                "it belongs to is not known; set it to 0."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Place the hooks. Here, because FSDP2 and DeepSpeed restore a checkpoint only after `on_fit_start`."""
        network = _network(pl_module)
        if self._held is None:
            raise RectifyError(
                "WeightSaliency: the checkpoint to resume from has no weight mask, and its optimizer would move held "
                "weights; start from its weights with --init_from."
            )
        mask = self._held.mask
        mask.check_fits(network, "WeightSaliency: what is in use")
        if self.freeze == "exact":
            self._check_start(trainer, network)
        self._place_hooks(trainer, network)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hold what was unfrozen since, too."""
        network = _network(pl_module)
        if sum(parameter.requires_grad for parameter in network.parameters()) != self._trainable:
            self._remove_hooks()
            self._place_hooks(trainer, network)

    def _place_hooks(self, trainer: Trainer, network: nn.Module) -> None:
        assert self._held is not None
        mask = self._held.mask
        decay = (lambda: self._decay_now) if self.weight_decay else None
        early = kind(trainer.strategy) in DEEPSPEED
        self._trainable = sum(parameter.requires_grad for parameter in network.parameters())
        for name, parameter in plainly_named(network):
            if not parameter.requires_grad:
                continue
            ranked = name in mask.packed
            if ranked and mask.kept(name) == mask.shapes[name].numel() and decay is None:
                continue  # all of it may move
            keep = mask.bits(name) if ranked else torch.zeros(whole_shape(parameter), dtype=torch.bool)
            self._hooks.append(mask_gradient(parameter, keep, decay=decay, before_accumulation=early))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        # once a step, in its last micro-batch
        self._decay_now = 0.0 if self.weight_decay == 0 or trainer.fit_loop._should_accumulate() else self.weight_decay

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        drift, moved = self._drift(trainer, _network(pl_module))
        self.off_mask_drift = drift
        trainer.callback_metrics["off_mask_drift"] = torch.tensor(drift)
        for logger in trainer.loggers:
            logger.log_metrics({"off_mask_drift": drift}, step=trainer.global_step)
        if self.freeze == "exact" and drift > 0:
            raise RectifyError(
                f"WeightSaliency: {len(moved)} parameters, first {moved[0]}, moved off the mask by up to {drift:.3g}; "
                "something besides the gradient writes weights: take it out, or set freeze: grad_only."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove_hooks()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._held is None else self._held.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        held = OffMaskWeights.from_state_dict(state_dict)
        if self.file is not None:
            if WeightMask.load(self.file).digest != held.mask.digest:
                raise RectifyError(
                    f"WeightSaliency: the run to resume has another mask than {self.file}; give its own, or start anew "
                    "with --init_from."
                )
        else:
            self._check_settings(held.mask)
        self._held = held

    def _check_settings(self, mask: WeightMask) -> None:
        """Refuse to resume with a mask made otherwise than is asked for."""
        asked = {"scope": self.scope, "include": ",".join(self.include), "abs_order": self.abs_order}
        pairs = {name: (value, mask.settings.get(name, value)) for name, value in asked.items()}
        for name, (value, made) in {"density": (self.density, mask.density), **pairs}.items():
            if value != made:
                raise RectifyError(
                    f"WeightSaliency: {name} is {value}, and the mask of the run to resume has {made}; set that, or "
                    "start anew with --init_from."
                )

    def _save(self, trainer: Trainer, mask: WeightMask) -> None:
        """The mask and its description, by rank 0."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = Path(trainer.default_root_dir) / FILE
        mask.save(path)
        with atomic_path(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps({**mask_sanity(mask), "settings": mask.settings}, indent=2) + "\n")

    def _check_start(self, trainer: Trainer, network: nn.Module) -> None:
        if not self._resumes and kind(trainer.strategy) == "replicated":
            used = [type(optimizer).__name__ for optimizer in trainer.optimizers if has_history(optimizer)]
            if any_rank(bool(used)):
                raise RectifyError(
                    f"WeightSaliency: {', '.join(used) or 'the optimizer'} holds moments of earlier steps, which move "
                    "held weights; build a new optimizer in configure_optimizers."
                )
        drift, moved = self._drift(trainer, network)
        if drift > 0:
            raise RectifyError(
                f"WeightSaliency: {moved[0]} is not what it was when the mask was made (off by up to {drift:.3g}); "
                "load weights before fit, and resume with the weights of the same checkpoint."
            )

    def _drift(self, trainer: Trainer, network: nn.Module) -> tuple[float, list[str]]:
        """The largest drift over all ranks and copies; every rank must call this."""
        assert self._held is not None
        whole = ((plain_name(name), weight) for name, weight in whole_weights(network))
        drift, moved = self._held.largest_drift(whole)
        own = torch.tensor([drift], dtype=torch.float64, device=trainer.strategy.root_device)
        return float(torch.cat(gather_rows(own)).max()), moved or ["a parameter on another rank"]

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _network(pl_module: LightningModule) -> nn.Module:
    """What is masked: the backbone of our modules, whose objectives keep their own parameters free; all of any other.

    In other modules `backbone` often names a part that gives features and no logits.
    """
    ours = isinstance(getattr(pl_module, "objective", None), Objective)
    return pl_module.backbone if ours else pl_module  # type: ignore[return-value]
