"""The contract of an attack: search the neighbourhood of images for what a network gets wrong, without a trace."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ._arguments import check_range
from ._undisturbed import undisturbed
from ._view import View, network
from .evidence import AdversarialBatch, Budget
from .gains import CrossEntropyGain, Gain

EVERYWHERE = Budget()


class Attack:
    """Finds adversarial images; a subclass overrides `search`.

    `attack(backbone, image, target)` takes the plain module (never a DDP wrapper) and images (B, C, H, W) in [0, 1]. It
    draws from the generator it is given, makes the same passes on every rank and for every batch, reads nothing back to
    the host, and leaves `.grad`, batch-norm statistics, each module's mode, `requires_grad` and the global random state
    as they were. Under a strategy that splits weights over ranks they are not frozen, only not differentiated.

    Args:
        batch_statistics: batch norms normalise by the batch, as in training, instead of their running statistics.
        bf16: run the network under bf16 autocast; images and steps stay in their own precision.
        channels_last: lay the images out with the channels last.
    """

    passes: float = 1.0
    """Forward and backward passes it costs."""
    needs_label: bool = False
    """Cannot take a mixture's target, whatever it maximises."""
    batch_statistics: bool = False
    bf16: bool = False
    channels_last: bool = False

    def __call__(
        self,
        backbone: nn.Module,
        image: Tensor,
        target: Any,
        loss: Gain | None = None,
        generator: torch.Generator | None = None,
        budget: Budget | None = None,
        clean: bool = False,
    ) -> AdversarialBatch:
        """Return adversarial images and evidence.

        Args:
            target: (B,) integer labels, or any target with `per_sample(logits) -> (B,)`.
            loss: what is maximised, cross-entropy by default.
            generator: on the images' device; torch's global one by default.
            budget: per-sample radius, step size and steps.
            clean: also return the logits of the images as they are (one forward pass, unless the loss needs it anyway).

        Raises:
            RectifyError: labels are missing, gradients are switched off for good by `inference_mode`, or images lie
                outside [0, 1] (looked at on the CPU only, where it costs no wait).
        """
        loss = loss or CrossEntropyGain()
        target = self._checked(image, target, loss)
        with undisturbed(backbone, self.batch_statistics), torch.enable_grad():
            image = image.detach()
            if self.channels_last and image.ndim == 4:
                image = image.contiguous(memory_format=torch.channels_last)
            with network(backbone, self.bf16, self.channels_last) as forward:
                view = View(forward, image, target, loss, clean)
                return self.search(view, image, budget or EVERYWHERE, generator)

    def search(self, view: View, image: Tensor, budget: Budget, generator: torch.Generator | None) -> AdversarialBatch:
        """Return the adversarial images; the network is already frozen."""
        raise NotImplementedError

    def _checked(self, image: Tensor, target: Any, loss: Gain) -> Any:
        """Return the target, labels as int64 that autograd may save."""
        name = type(self).__name__
        if torch.is_inference_mode_enabled() or image.is_inference():
            raise RectifyError(
                f"{name} needs gradients, which torch.inference_mode() forbids; set trainer.inference_mode to false, "
                "or clone the images and attack inside torch.inference_mode(False)."
            )
        if target is None:
            raise RectifyError(f"{name} has no labels to attack: the batch lacks `label`.")
        for part in (self, loss):
            if part.needs_label and not isinstance(target, Tensor):
                raise RectifyError(f"{type(part).__name__} compares with one label, and mixtures have several.")
        if type(image) is Tensor and image.device.type == "cpu":  # a fake tensor has no values
            check_range(name, image)
        if not isinstance(target, Tensor) or target.is_floating_point():
            return target
        return (target.clone() if target.is_inference() else target).long()
