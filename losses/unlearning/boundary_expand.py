"""Boundary expanding (Chen et al. 2023, arXiv 2303.11570): a class of its own for what is to be forgotten."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.last_linear import logit_layer
from ...errors import RectifyError
from ...randomness import global_seed, keyed_generator
from ..objective import Context, Step
from .parts import Portion
from .unlearning_objective import UnlearningObjective


class BoundaryExpand(UnlearningObjective):
    """Cross-entropy of the forgotten samples to an additional class; what is retained is not looked at.

    The additional logit belongs to the objective and not to the backbone, whose classes stay as they are: evaluation
    and the unlearned checkpoint never see it. It is a linear map of the features, drawn as torch draws linear layers.

    Raises:
        RectifyError: at setup, if the backbone has no linear layer to read the number of features from.
    """

    schedules = ("forget", "forget_then_retain", "paired", "mixed")
    uses = ("forget",)
    own_parameters = True

    def setup(self, backbone: nn.Module) -> None:
        head = logit_layer(backbone)
        if head is None:
            raise RectifyError(
                f"BoundaryExpand: {type(backbone).__name__} has no linear layer, whose inputs would be the features; "
                "choose another objective, such as BoundaryShrink."
            )
        self.extra = nn.utils.skip_init(nn.Linear, head.in_features, 1, dtype=head.weight.dtype).to(head.weight.device)
        bound = head.in_features**-0.5
        for weight in self.extra.parameters():
            drawn = torch.empty(weight.shape, dtype=weight.dtype)
            drawn.uniform_(-bound, bound, generator=keyed_generator(global_seed(), "boundary expand", *weight.shape))
            weight.data.copy_(drawn)

    def network(self, backbone: nn.Module, image: Tensor) -> Tensor:
        features = backbone.features(image)  # type: ignore[operator]
        return torch.cat((backbone.head(features), self.extra(features)), 1)  # type: ignore[operator]

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        beyond = torch.full_like(portion.batch["label"], logits.shape[1] - 1)
        return F.cross_entropy(logits, beyond, reduction="none")

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        step = super().forward(backbone, batch, context)
        assert step.logits is not None
        step.logits = step.logits[:, :-1]
        return step
