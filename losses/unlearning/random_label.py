"""Random labelling: train the samples to forget on wrong labels (Golatkar et al. 2020; the objective of SalUn)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import RectifyError
from ..objective import Context
from .label_draws import batch_labels, epoch_labels
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class RandomLabel(UnlearningObjective):
    """Cross-entropy to a random label on what is forgotten, to the true one on what is retained.

    With a weight mask of density 0.5 this is SalUn (Fan et al. 2024, arXiv 2310.12508). A mixed batch has one mean over
    all its samples, as in the published code for CIFAR-100.

    Args:
        exclude_true: draw among the other classes only. The published code does not, so that one label in K stays true.
        labels: `batch` draws anew whenever a sample is seen (published for CIFAR-10), `epoch` once for a sample and
            epoch, as a function of the run's seed, the epoch and the sample's index (published for CIFAR-100).

    Raises:
        RectifyError: an unknown value of labels.
    """

    pooled = True

    def __init__(self, exclude_true: bool = False, labels: Literal["batch", "epoch"] = "batch"):
        super().__init__()
        if labels not in ("batch", "epoch"):
            raise RectifyError(f"{type(self).__name__}: labels is {labels!r}; choose batch or epoch.")
        self.exclude_true, self.labels = exclude_true, labels
        self.needs_index = labels == "epoch"

    def draw(self, portion: Portion, classes: int, context: Context) -> Tensor:
        """Return the (B,) labels of this batch."""
        label = portion.batch["label"]
        if self.labels == "batch":
            return batch_labels(label, classes, self.exclude_true, context)
        return epoch_labels(label, portion.batch["index"], classes, self.exclude_true, context)

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        return F.cross_entropy(logits, self.draw(portion, logits.shape[1], context), reduction="none")
