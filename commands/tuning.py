"""Which learning rate and density to unlearn with, by what can be known without retraining and without test samples."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from ..callbacks.ema import EMA
from ..callbacks.weight_saliency import WeightSaliency
from ..errors import RectifyError
from ..files import atomic_path
from ..unlearning.density import check_density
from ..unlearning.validation_gap import proxy_gap
from .model_outputs import model_outputs
from .unlearning_callbacks import UnlearnedWeights

SPLITS = ("forget", "retain", "val")
KEPT = (
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches"),
)
"""Settings of the trainer that a trial shares with the run."""


class Tuning:
    """Short trials over learning rates and densities, of which the smallest `proxy_gap` wins.

    Each trial is a whole unlearning from the original's weights with the same data, seed and number of epochs, under
    the run's own masks and moving average. A run that is resumed keeps what was chosen.

    Args:
        rates: learning rates; None or none keeps the optimizer's.
        densities: of WeightSaliency; None or none keeps its own.

    Raises:
        RectifyError: a value out of range, a density without a mask to make, or a strategy that is an object.
    """

    def __init__(self, rates: list[float] | None, densities: list[float] | None, settings: Any, callbacks: list[Any]):
        self.rates, self.densities = rates or [None], densities or [None]  # type: ignore[list-item]
        self.settings = settings
        wrong = [rate for rate in rates or () if rate <= 0]
        if wrong:
            raise RectifyError(f"--tune_lr holds {wrong[0]}; give learning rates above 0.")
        for density in densities or ():
            check_density(density, "--tune_density")
        if densities and not any(mask.file is None for mask in _masks(callbacks)):
            raise RectifyError("--tune_density: no mask is made; add the callback WeightSaliency without a mask file.")
        if not isinstance(settings.get("strategy"), str):
            raise RectifyError("--tune_lr and --tune_density take strategies by name, such as auto or ddp; tune there.")

    def run(self, model: LightningModule, data: Any, callbacks: Iterable[Any], original: nn.Module, out: Path) -> None:
        """Set the best learning rate and density in `model` and `callbacks`; write all trials to `out`."""
        shared = [callback for callback in callbacks if isinstance(callback, WeightSaliency | EMA)]
        masks = _masks(shared)
        if out.is_file():  # a run that is resumed
            chosen = json.loads(out.read_text())["chosen"]
            _set(model, masks, chosen["lr"], chosen["density"])
            return
        start: Any = None
        trials: list[dict[str, Any]] = []
        for rate, density in product(self.rates, self.densities):
            tried, state = self._trial(model, data, shared, rate, density)
            device = tried.strategy.root_device
            if start is None:
                start = model_outputs(copy.deepcopy(original), data, device, SPLITS)
            unlearned = copy.deepcopy(original)
            unlearned.load_state_dict(state)
            gap = proxy_gap(start, model_outputs(unlearned, data, device, SPLITS))
            trials.append({"lr": rate, "density": density, "proxy_gap": gap})
            rank_zero_info(f"tuning: {_named(rate, density)}, gap on validation samples {gap:.2f}")
        best = min(trials, key=lambda trial: trial["proxy_gap"])
        rank_zero_info(f"tuning: {_named(best['lr'], best['density'])} chosen of {len(trials)}")
        _set(model, masks, best["lr"], best["density"])
        if tried.is_global_zero:
            with atomic_path(out) as path:
                path.write_text(json.dumps({"chosen": best, "trials": trials}, indent=2) + "\n")

    def _trial(
        self, model: LightningModule, data: Any, shared: list[Any], rate: float | None, density: float | None
    ) -> tuple[Trainer, dict[str, torch.Tensor]]:
        tried, own, weights = copy.deepcopy(model), [copy.deepcopy(callback) for callback in shared], UnlearnedWeights()
        _set(tried, _masks(own), rate, density)
        quiet: dict[str, Any] = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
        }
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                **{key: self.settings[key] for key in KEPT},
                **quiet,
                enable_checkpointing=False,
                use_distributed_sampler=False,
                default_root_dir=folder,
                callbacks=[_NeedsValidation(), *own, weights],
            )
            trainer.fit(tried, datamodule=data)
        assert weights.state is not None
        return trainer, weights.state


class _NeedsValidation(Callback):
    """Refuses data without a validation split before the first trial is paid for."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        if not loader:
            raise RectifyError(
                "--tune_lr and --tune_density judge on validation samples, and the data have none; "
                "build them with a validation share (data.build.val), or leave both options out."
            )


def _masks(callbacks: Iterable[Any]) -> list[WeightSaliency]:
    return [callback for callback in callbacks if isinstance(callback, WeightSaliency)]


def _set(model: Any, masks: list[WeightSaliency], rate: float | None, density: float | None) -> None:
    if rate is not None:
        model._optimizer = _with_rate(model._optimizer, rate)
    for mask in masks:
        mask.density = mask.density if density is None else density


def _with_rate(build: Callable[..., torch.optim.Optimizer], rate: float) -> Callable[..., torch.optim.Optimizer]:
    def built(parameters: Any) -> torch.optim.Optimizer:
        optimizer = build(parameters)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return optimizer

    return built


def _named(rate: float | None, density: float | None) -> str:
    parts = {"learning rate": rate, "density": density}
    return ", ".join(f"{name} {value:g}" for name, value in parts.items() if value is not None)
