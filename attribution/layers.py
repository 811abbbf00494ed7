"""Find the layer to explain, and its output."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import RectifyError, did_you_mean
from ..frozen import frozen_eval


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Return a layer's name and module; a name may leave out the prefix `backbone.`.

    Raises:
        RectifyError: the model has no such layer.
    """
    layers = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, nn.Module):
        names = [name for name, module in layers.items() if module is layer]
        if not names:
            raise RectifyError(f"The layer {type(layer).__name__} is no part of {type(model).__name__}.")
        return names[0], layer
    for name in (layer, f"backbone.{layer}"):
        if name in layers:
            return name, layers[name]
    raise RectifyError(f"layer: {type(model).__name__} has no layer {layer!r}.{did_you_mean(layer, layers)}")


def last_spatial_layer(model: nn.Module, image: Tensor) -> str | None:
    """Return the name of the last module to output (B, C, h, w) with h·w > 1, None if there is none.

    One forward pass over `image` (B, C, H, W) tells. Of a block and its last child, which end together, the block is
    named. Modules before the first one with parameters (a normalisation) do not count.
    """
    found: list[str] = []
    learned = False

    def note(name: str, module: nn.Module, output: Any) -> None:
        nonlocal learned
        learned = learned or next(module.parameters(), None) is not None
        if learned and isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(name)

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with frozen_eval(model):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return found[-1] if found else None


@contextmanager
def leaf_output(layer: nn.Module, name: str = "layer") -> Iterator[list[Tensor]]:
    """Cut the graph at a layer: its output becomes a leaf that collects gradients, appended to the yielded list.

    Whatever runs before the layer builds no graph, so a map costs a forward pass and the backward pass of the rest. The
    network goes on with a clone, which an in-place activation may overwrite. The hook is removed at the end.
    """
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise RectifyError(f"layer: {name} returns {type(output).__name__}, not one float tensor; choose another.")
        leaves.append(output.detach().clone().requires_grad_())
        return leaves[-1].clone()

    handle = layer.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()
