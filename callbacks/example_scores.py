"""An observer: how hard each training sample is, for pruning and for choosing hard samples to forget."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from ..backbones.last_linear import logit_layer
from ..datamodules.sample_store import SampleStore
from ..errors import RectifyError
from .batches import forward_logits, image_batch
from .example_table import ExampleRow, check_table, write_table

SUMS = ("el2n", "grand", "times", "forgotten", "last_right", "learnt")


class ExampleScores(Callback):
    """Score every training sample before the step that uses it, and write the scores when training ends.

    - `el2n`: ‖softmax(z) - y‖₂, mean over the epochs (Paul, Ganguli and Dziugaite 2021);
    - `grand`: the norm of the last layer's gradient, ‖softmax(z) - y‖·√(‖h‖² + 1), the 1 only where the layer has a
      bias; a cheap stand-in for GraNd, which takes the gradient of all weights; NaN without a linear last layer;
    - `forgotten`: how often a sample that was right came out wrong the next time (Toneva et al. 2019); `inf` if it was
      never right.

    The images are scored clean, in evaluation mode, by one extra forward pass of each training batch: set `epochs`
    to pay for it early only, where EL2N is meant to be taken. Augmented data are scored as augmented. The scores lie in
    a `SampleStore`, so every rank holds all of them and a resume goes on. A sample that is repeated in a global batch
    is scored each time, and forgotten once at most. `<run>/example_scores.csv` has a row for each
    scored sample; the columns key and label are filled where the data module has an index, and then any selection of
    its rows is a request to forget (`data.forget`).

    Args:
        epochs: the first so many epochs are scored; None for all.
        samples: N of the data set with all splits; taken from the data module's index if it has one.
        file: the table's name in the run folder; one that ends in .parquet needs pyarrow, the extra `parquet`.

    Raises:
        RectifyError: a bad option; batches or data without index; at the end of an epoch, NaN logits.
    """

    def __init__(self, epochs: int | None = None, samples: int | None = None, file: str = "example_scores.csv"):
        for name, value in (("epochs", epochs), ("samples", samples)):
            if value is not None and value < 1:
                raise RectifyError(f"ExampleScores: {name} is {value}; give at least 1.")
        self.epochs, self.samples, self.file = epochs, samples, check_table(file)
        self._store: SampleStore | None = None
        self._saved: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        index = getattr(getattr(trainer, "datamodule", None), "index", None)
        count = self.samples or (0 if index is None else len(index.key))
        if not count:
            raise RectifyError("ExampleScores: the data module has no index; give samples, the size of the data set.")
        self._store = SampleStore(count, shape=(len(SUMS),)).to(pl_module.device)
        if self._saved is not None:
            if len(self._saved) != count:
                raise RectifyError(
                    f"ExampleScores: the checkpoint scores {len(self._saved)} samples and the data have {count}; "
                    "resume on the data it was trained on."
                )
            self._store.value.copy_(self._saved)
            self._saved = None

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._store is None or (self.epochs is not None and trainer.current_epoch >= self.epochs):
            return
        own = image_batch(batch, "ExampleScores")
        if own.index is None:
            raise RectifyError("ExampleScores: the training batches have no index; give each sample its number.")
        inputs: list[Tensor] = []
        layer = logit_layer(pl_module)
        handle = None if layer is None else layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            logits = forward_logits(trainer, pl_module, own.image, "ExampleScores").float()
        finally:
            if handle is not None:
                handle.remove()
        residual = logits.softmax(1)
        residual[torch.arange(len(residual), device=residual.device), own.label] -= 1
        el2n = residual.norm(dim=1)
        fits = bool(inputs) and inputs[-1].shape[:1] == el2n.shape and inputs[-1].ndim == 2
        bias = 0 if layer is None or layer.bias is None else 1
        grand = el2n * (inputs[-1].float().square().sum(1) + bias).sqrt() if fits else torch.full_like(el2n, torch.nan)
        right = logits.argmax(1).eq(own.label).float()
        before = self._store(own.index)
        forgot = before[:, 4] * (1 - right)
        learnt = (1 - before[:, 5]) * right
        change = torch.stack((el2n, grand, torch.ones_like(el2n), forgot, right - before[:, 4], learnt), 1)
        count = self._store.value[:, 3].clone()
        self._store.add(own.index, change)
        # a sample that comes twice in a global batch adds its change twice, but was forgotten, and learnt, once
        self._store.value[:, 3] = torch.minimum(self._store.value[:, 3], count + 1)
        self._store.value[:, 4:].clamp_(0, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._store is None:
            return
        broken = self._store.value[:, 0].isnan().nonzero()[:, 0].tolist()  # the same on every rank
        if broken:
            raise RectifyError(
                f"ExampleScores: the logits of {len(broken)} training samples were NaN, sample {broken[0]} among them, "
                f"by epoch {trainer.current_epoch}; the network has diverged, or its input is broken."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._store is None or not trainer.is_global_zero:
            return
        index = getattr(getattr(trainer, "datamodule", None), "index", None)
        rows = []
        for sample, (el2n, grand, times, forgotten, _, learnt) in enumerate(self._store.value.tolist()):
            if times:
                key = None if index is None else str(index.key[sample])
                label = None if index is None else int(index.label[sample])
                count = forgotten if learnt else float("inf")
                rows.append(ExampleRow(sample, key, label, el2n / times, grand / times, count, int(times)))
        write_table(Path(trainer.default_root_dir) / self.file, rows)

    def scores(self) -> Tensor:
        """Return (N, 6) sums by sample index, in the order of `SUMS`; a copy."""
        if self._store is None:
            raise RectifyError("ExampleScores: nothing is scored before training starts.")
        return self._store.value.clone()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._store is None else {"value": self._store.value.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict.get("value")
