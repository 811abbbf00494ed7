"""What the command unlearn watches while it trains: the cost, and the weights that come out."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ..callbacks.ema import EMA
from ..callbacks.weight_saliency import WeightSaliency
from ..collectives import sum_over_ranks
from ..strategies.gathering import whole_weights
from .model_outputs import DeviceBatches


class UnlearningCost(Callback):
    """Seconds from the start of the mask to the end of training, without validation, and sample gradients.

    A sample counts once a step in which its weight is not 0, whatever attacks and teachers add to that; the mask costs
    one gradient of each forget sample. A resumed run adds to what its checkpoint holds.
    """

    def __init__(self) -> None:
        self.seconds, self.forget, self.retain = 0.0, 0.0, 0.0
        self._since: float | None = None
        self._counts: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._since = time.monotonic()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.forget, self.retain = (state_dict[name] for name in ("seconds", "forget", "retain"))

    def state_dict(self) -> dict[str, Any]:
        self._settle()
        return {"seconds": self.seconds, "forget": self.forget, "retain": self.retain}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        masks = [callback for callback in trainer.callbacks if isinstance(callback, WeightSaliency)]  # type: ignore[attr-defined]
        if any(mask.file is None for mask in masks) and not trainer.global_step:
            self.forget += len(trainer.datamodule.forget_index)  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        read = _parts_read(pl_module, batch_idx)
        if "forget" in batch and "image" in batch:
            forget = batch["forget"].sum()
            counts = torch.stack([forget, len(batch["forget"]) - forget])
        else:
            parts = {"retain": batch} if "image" in batch else batch  # plain batches have nothing to forget
            sizes = [len(parts[name]["label"]) if parts.get(name) else 0 for name in ("forget", "retain")]
            counts = torch.tensor(sizes, device=pl_module.device)
        counts = counts * torch.tensor(read, device=counts.device)
        self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._settle()
        self._since = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._settle()
        self._since = None

    def _settle(self) -> None:
        """Add what ran since. Every rank saves at the same steps, so the sum inside is safe."""
        if self._since is not None:
            now = time.monotonic()
            self.seconds, self._since = self.seconds + now - self._since, now
        if self._counts is not None:
            forget, retain = sum_over_ranks(self._counts).tolist()
            self.forget, self.retain, self._counts = self.forget + forget, self.retain + retain, None

    def report(self) -> dict[str, float]:
        """What becomes `RTE`."""
        return {
            "seconds": round(self.seconds, 3),
            "forget_gradients": int(self.forget),
            "retain_gradients": int(self.retain),
        }


def _parts_read(pl_module: Any, batch_idx: int) -> list[bool]:
    """Whether the samples to forget and those to retain have a gradient in this step."""
    objective = getattr(pl_module, "objective", None)
    if callable(weights := getattr(objective, "weights", None)):
        return [weight != 0 for weight in weights(pl_module.context(batch_idx))]
    uses = getattr(objective, "uses", ("forget", "retain"))
    return [name in uses for name in ("forget", "retain")]


class UnlearnedWeights(Callback):
    """Takes the backbone's whole weights when training ends, on every rank and strategy; under EMA the averaged ones.

    Attributes:
        state: the backbone's state dict on the CPU, tied weights under each of their names.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] | None = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        averages = [callback for callback in trainer.callbacks if isinstance(callback, EMA)]  # type: ignore[attr-defined]
        # what is validated is what comes out; at teardown, when EMA swaps for good, shards can no longer be gathered
        for average in averages:
            average.on_validation_start(trainer, pl_module)
        self.take(pl_module)
        for average in averages:
            average.on_validation_end(trainer, pl_module)

    def take(self, pl_module: LightningModule) -> None:
        backbone: Any = pl_module.backbone
        whole = {name: tensor.detach().cpu().clone() for name, tensor in whole_weights(backbone)}
        name_of = {id(parameter): name for name, parameter in backbone.named_parameters()}
        held = {name: buffer.detach().cpu().clone() for name, buffer in backbone.named_buffers(remove_duplicate=False)}
        for name, parameter in backbone.named_parameters(remove_duplicate=False):
            held[name] = whole[name_of[id(parameter)]]
        kept = backbone.state_dict().keys()
        self.state = {name: tensor for name, tensor in held.items() if name in kept}


class ApplyEdit(Callback):
    """Applies a training-free edit before an evaluation starts: the data are set up, the processes are joined."""

    def __init__(self, cost: UnlearningCost, weights: UnlearnedWeights):
        self.cost, self.weights = cost, weights

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        backbone: Any = pl_module.backbone
        edit: Any = pl_module.edit
        backbone.to(device)
        forget = _CountedBatches(data.forget_dataloader(), data, device)
        retain = _CountedBatches(data.retain_dataloader(), data, device)
        started = time.monotonic()
        edit.apply(backbone, forget, retain)
        self.cost.seconds += time.monotonic() - started
        self.cost.forget += forget.samples_read(len(data.forget_index))
        self.cost.retain += retain.samples_read(len(data.retain_index))
        self.weights.take(pl_module)


class _CountedBatches(DeviceBatches):
    """Batches that know how many of them were read, over all passes."""

    read = 0

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            self.read += 1
            yield batch

    def samples_read(self, of_a_pass: int) -> int:
        """Samples of all ranks, from their number in a whole pass: the padding of the loader does not count."""
        return round(of_a_pass * self.read / max(len(self), 1))
