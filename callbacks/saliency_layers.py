"""Which layers are explained where none is named."""

from collections.abc import Sequence

from pytorch_lightning import LightningModule
from torch import Tensor

from ..attribution.layers import last_spatial_layer, spatial_layers
from ..attribution.methods import METHODS
from ..errors import RectifyError

MOST_LAYERS = 8


def explained_layers(
    pl_module: LightningModule, image: Tensor, methods: Sequence[str], layer: str | tuple[str, ...] | None
) -> list[str]:
    """Return the layers for methods that read one: those named, or the last one with a spatial output.

    Raises:
        RectifyError: none is named, and the network has none.
    """
    layers = [layer] if isinstance(layer, str) else list(layer or ())
    if layers or not any(METHODS[method].needs_layer for method in methods):
        return layers
    last = last_spatial_layer(pl_module, image)
    if last is None:
        free = [name for name in methods if not METHODS[name].needs_layer] or ["input_gradient"]
        raise RectifyError(
            f"SaliencyMaps: {type(pl_module).__name__} has no layer with a spatial output (B, C, h, w), "
            f"which Grad-CAM and its like need; set methods: [{', '.join(free)}], or name a layer of tokens "
            "(such as layer: model.blocks.11.norm1)."
        )
    return [last]


def compared_layers(pl_module: LightningModule, image: Tensor) -> list[str]:
    """Return the layers whose sensitivity to the class is measured: up to 8 of the stages, evenly."""
    stages = spatial_layers(pl_module, image)
    return stages[:: -(-len(stages) // MOST_LAYERS)] if stages else []
