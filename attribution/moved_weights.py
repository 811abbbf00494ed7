"""Meta-saliency: maps of the network after a step of learning from the image itself."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import RectifyError
from ..frozen import frozen_eval
from .score import check_target, logits_of

Saliency = Callable[[nn.Module, Tensor, Tensor], Tensor]


class MovedWeights(nn.Module):
    """The same network with other values for its parameters; the network itself keeps its own."""

    def __init__(self, backbone: nn.Module, weights: dict[str, Tensor]):
        super().__init__()
        self.backbone = backbone  # under this name its layers are found without a prefix
        self._weights = weights

    @property
    def stands_for(self) -> nn.Module:
        return self.backbone

    def forward(self, image: Tensor) -> Any:
        return functional_call(self.backbone, self._weights, (image,))


def meta_saliency(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    saliency: Saliency,
    step: float = 2.5e-3,
    adverse: bool = False,
    together: bool = False,
) -> Tensor:
    """Return a method's maps for the weights θ - step·∇CE(f(x), y), as the model would learn from the image.

    (Rebuffi et al. 2020.) The gradient is taken in eval mode. Each image moves the weights for itself, which costs two
    forward and two backward passes an image; the module's parameters are never written.

    Args:
        model: maps images to logits (B, K).
        images: (B, C, H, W) float.
        target: (B,) int64 classes to explain.
        saliency: `(model, images, target) -> maps`; a layer is given by its name.
        step: length of the step, in units of the gradient.
        adverse: ascend instead, which shows the evidence against the target.
        together: one step on the mean loss of the batch; cheaper, but a map then depends on the batch.

    Raises:
        RectifyError: a step that is not finite, or as `input_gradient`.
    """
    if not -float("inf") < step < float("inf"):
        raise RectifyError(f"meta_saliency: step is {step}; give a finite number.")
    length = -step if adverse else step
    parts = [slice(0, len(images))] if together else [slice(place, place + 1) for place in range(len(images))]
    maps = []
    for part in parts:
        weights = _moved(model, images[part], target[part], length)
        maps.append(saliency(MovedWeights(model, weights), images[part], target[part]))
    return torch.cat(maps)


def _moved(model: nn.Module, images: Tensor, target: Tensor, length: float) -> dict[str, Tensor]:
    with frozen_eval(model, input_gradients=True):
        leaves = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point()
        }
        logits = logits_of(MovedWeights(model, leaves), images.detach().clone())
        check_target(target, images, logits.shape[1])
        loss = F.cross_entropy(logits, target.long().clone())
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        # in here, since what is made in inference mode could take no part in the graph of the maps
        return {
            name: leaf.detach() if gradient is None else leaf.detach() - length * gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }
