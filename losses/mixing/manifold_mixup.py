"""Manifold Mixup (Verma et al. 2019, arXiv 1806.05236): the mixture happens at a random layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.backbone import named_layer
from ...errors import RectifyError
from ..base_losses import BaseLoss
from ..objective import Context
from ._draws import Per
from .label_rules import LabelRule
from .mixup import Mixup
from .plan import MixPlan

INPUT = "input"


@contextmanager
def mixed_output(layer: nn.Module, plan: MixPlan) -> Iterator[None]:
    """Mix the first output of `layer` inside the block; the hook is gone afterwards, also when the block raises.

    Raises:
        RectifyError: the output is no (B, ...) tensor, or the layer did not run inside the block.
    """
    ran = False

    def mix(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal ran
        if ran:  # a layer used twice is mixed once
            return output
        ran = True
        if not isinstance(output, Tensor) or len(output) != len(plan.partners):
            raise RectifyError(
                f"ManifoldMixup: the output of {type(layer).__name__} is no tensor with the batch first; "
                "choose another layer."
            )
        return plan.apply(output)

    handle = layer.register_forward_hook(mix)
    try:
        yield
    finally:
        handle.remove()
    if not ran:
        raise RectifyError(
            f"ManifoldMixup: the {type(layer).__name__} to mix at did not run; choose another layer, or switch "
            "compilation off (compiled code passes hooks by)."
        )


class ManifoldMixup(Mixup):
    """Mixup of the hidden state at a layer drawn uniformly for each batch.

    The mixture's weights and partners do not depend on the layer drawn.

    Args:
        layers: eligible layers, by name in the backbone; `input` is the image itself.
        alpha, per, label, stop, base: see Mixup. The authors' code uses alpha 2.

    Raises:
        RectifyError: no layer is given, one is named twice, or (in `setup`) the backbone has none of that name.
    """

    def __init__(
        self,
        layers: Sequence[str] = (INPUT, "layer1", "layer2"),
        alpha: float = 2.0,
        per: Per = "sample",
        label: LabelRule | str = "same",
        stop: float | None = None,
        base: BaseLoss | None = None,
    ):
        super().__init__(alpha, per, label, stop, base)
        if not layers or len(set(layers)) < len(layers):
            raise RectifyError(f"ManifoldMixup: layers is {list(layers)}; name at least one layer, each once.")
        self.layers = tuple(layers)

    def setup(self, backbone: nn.Module) -> None:
        for name in self.layers:
            if name != INPUT:
                named_layer(backbone, name)

    def choose_layer(self, context: Context) -> str:
        """Draw this batch's layer, on the host from its own stream."""
        return self.layers[int(torch.randint(len(self.layers), (), generator=context.generator("mixing layer")))]

    def mixed_logits(self, backbone: nn.Module, image: Tensor, plan: MixPlan, context: Context) -> Tensor:
        name = self.choose_layer(context)
        if name == INPUT:
            return super().mixed_logits(backbone, image, plan, context)
        with mixed_output(named_layer(backbone, name), plan):
            return backbone(image)
