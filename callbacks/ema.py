"""A controller: a moving average of the backbone's weights, which is what gets validated, saved and tested."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import RectifyError

RAW, UPDATES = "raw_backbone", "ema_updates"


class EMA(Callback):
    """Exponential moving average of the backbone (weights and floating buffers), updated after optimizer steps.

    Lightning's own callback averages the whole module: teachers, proxies and the state of the objective with it, and
    validates weights that were never updated. Here a checkpoint's `state_dict` holds the average, so that testing and
    `--init_from` use it, and `raw_backbone` holds what training resumes from.

    Args:
        decay: share of the old average kept at each update, in (0, 1).
        every_n_steps: optimizer steps between updates.
    """

    averages_weights = True

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1):
        if not 0 < decay < 1:
            raise RectifyError(f"EMA: decay is {decay}; it must lie in (0, 1).")
        if every_n_steps < 1:
            raise RectifyError(f"EMA: every_n_steps is {every_n_steps}; give at least 1.")
        self.decay = decay
        self.every_n_steps = every_n_steps
        self._average: AveragedModel | None = None
        self._restored: tuple[dict[str, Tensor], int] | None = None
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        average = get_ema_multi_avg_fn(self.decay)
        self._average = AveragedModel(self._backbone(pl_module), multi_avg_fn=average, use_buffers=True)
        self._average.requires_grad_(False)
        self._last_step = trainer.global_step
        if self._restored is not None:
            weights, updates = self._restored
            self._average.module.load_state_dict(weights)
            self._average.n_averaged.fill_(updates)
            self._restored = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step > self._last_step and step % self.every_n_steps == 0 and self._average is not None:
            self._average.update_parameters(self._backbone(pl_module))
        self._last_step = step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._swap(pl_module)  # whoever goes on with the module after the fit has the averaged weights
            self._average = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average is None or not self._updates():
            return
        state = checkpoint["state_dict"]
        averaged = self._average.module.state_dict()
        checkpoint[RAW] = {name: state[f"backbone.{name}"] for name in averaged}
        checkpoint[UPDATES] = self._updates()
        state.update({f"backbone.{name}": value for name, value in averaged.items()})

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or RAW not in checkpoint:
            return
        raw = checkpoint[RAW]
        averaged = {name: checkpoint["state_dict"][f"backbone.{name}"].clone() for name in raw}
        self._restored = averaged, checkpoint[UPDATES]
        self._backbone(pl_module).load_state_dict(raw)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        if self._average is None or not self._updates():
            return  # before the first update the average is the initial weights
        current, average = self._backbone(pl_module).state_dict(), self._average.module.state_dict()
        swapped: set[int] = set()
        for name, value in current.items():
            if value.data_ptr() in swapped:
                continue  # a tied weight under its second name
            if value.numel():
                swapped.add(value.data_ptr())
            kept = value.clone()
            value.copy_(average[name])
            average[name].copy_(kept)

    def _updates(self) -> int:
        return int(self._average.n_averaged) if self._average is not None else 0

    @staticmethod
    def _backbone(pl_module: LightningModule) -> nn.Module:
        backbone = getattr(pl_module, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise RectifyError(f"EMA averages `backbone`, which {type(pl_module).__name__} does not have.")
        return backbone
