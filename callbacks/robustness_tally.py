"""What a report of robustness counts while batches are attacked."""

import time

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from ..frozen import frozen_eval
from ..metrics import ClassAccuracy, EnergySums
from ..metrics.class_accuracy import ClassAccuracies
from ..randomness import global_seed, keyed_generator
from .attacked_network import AttackedNetwork, check_logits, check_range
from .batches import ImageBatch, sample_ids
from .masking_flags import MaskingChecks
from .robustness_trials import Trial


class RobustnessTally:
    """Hits by class under each attack, energies and, in a test, the checks for masked gradients.

    Args:
        trials: the attacks; the first gives the energies.
        checks: made on each batch, too, if given.
        who: the callback that speaks in errors.

    Attributes:
        energies: None as long as nothing was attacked.
        seconds: spent attacking on this rank.
    """

    def __init__(self, trials: list[Trial], checks: MaskingChecks | None, who: str):
        self.trials, self.checks, self.who = trials, checks, who
        self.energies: EnergySums | None = None
        self.seconds = 0.0
        self._network: AttackedNetwork | None = None
        self._right: dict[str, ClassAccuracy] = {}

    def attack(self, pl_module: LightningModule, batch: ImageBatch, keep: Tensor) -> None:
        """Attack a batch and count the samples to keep (n,) bool.

        Raises:
            RectifyError: images outside [0, 1], or logits that are not (n, K) or not finite.
        """
        began = time.monotonic()
        ids = sample_ids(batch)
        with frozen_eval(pl_module, input_gradients=True):
            self._network = self._network or AttackedNetwork(pl_module)
            network = self._network
            # tensors made in inference mode cannot take part in a graph
            image, label, keep = batch.image.clone().float(), batch.label.clone(), keep.clone()
            check_range(image, self.who)
            with torch.no_grad():
                clean = network(image)
            check_logits(clean, image, label, pl_module, self.who)
            right = clean.argmax(1) == label
            self._count("clean", right, label, keep, clean.shape[1])
            under: dict[str, Tensor] = {}
            for trial in self.trials:
                draw = keyed_generator(global_seed(), "robustness", trial.name, *ids, device=image.device)
                x = trial.attack(network, image, label, trial.loss, draw).image
                with torch.no_grad():
                    logits = network(x)
                under[trial.name] = right & (logits.argmax(1) == label)
                self._count(trial.name, under[trial.name], label, keep, clean.shape[1])
                if len(under) == 1:
                    self.energies = self.energies or EnergySums().to(image.device)
                    self.energies.update(clean[keep], logits[keep])
            every = torch.stack(list(under.values())).all(0)
            self._count("robust", every, label, keep, clean.shape[1])
            if self.checks is not None:
                draw = keyed_generator(global_seed(), "robustness", "checks", *ids, device=image.device)
                weak, strong = list(under.values())[:2]
                self.checks.add(network, image, label, keep, right, weak, strong, every, draw)
        self.seconds += time.monotonic() - began

    def accuracies(self) -> dict[str, ClassAccuracies]:
        """Over all ranks, by name: `clean`, each attack's, and `robust` for all of them together."""
        return {name: sums.compute() for name, sums in self._right.items()}

    def _count(self, name: str, right: Tensor, label: Tensor, keep: Tensor, classes: int) -> None:
        if name not in self._right:
            self._right[name] = ClassAccuracy(classes).to(label.device)
        self._right[name].update(right[keep], label[keep])
