"""Maps of many layers in one forward and one backward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RectifyError
from ..frozen import frozen_eval
from .layers import find_layer
from .score import target_logit
from .tokens import spatial_grid, upsampled

Layers = Iterable[str | nn.Module]
Keep = Callable[[nn.Module, Tensor, Tensor], Tensor]
Fold = Callable[[Tensor, Tensor], Tensor]


class _Recorded:
    """Maps (B, h, w) by layer, and where the graph begins."""

    def __init__(self) -> None:
        self.maps: dict[str, Tensor] = {}
        self.leaves: list[Tensor] = []
        self.calls: dict[str, int] = {}

    def backward(self, score: Tensor, retain_graph: bool = False) -> dict[str, Tensor]:
        """Return the maps of this score by layer.

        Raises:
            RectifyError: a layer did not run, or the score does not depend on it.
        """
        for name, calls in self.calls.items():
            if not calls:
                raise RectifyError(f"layer: {name} does not run in the forward pass; choose one that does.")
        self.maps = {}
        if score.requires_grad:
            torch.autograd.grad(score, self.leaves, allow_unused=True, retain_graph=retain_graph)
        for name in self.calls:
            if name not in self.maps:
                raise RectifyError(f"layer: the logits do not depend on the output of {name}; choose another layer.")
        return {name: self.maps[name] for name in self.calls}


@contextmanager
def recorded_maps(
    layers: Mapping[str, nn.Module], keep: Keep, fold: Fold, size: tuple[int, int], who: str
) -> Iterator[_Recorded]:
    """Hook layers so that a backward pass leaves each one's map.

    The graph starts at the first layer that runs: what comes before builds none. Of a layer that runs several times the
    last call counts. The hooks sit on the tensors, so that an activation which overwrites a layer's output in place
    changes nothing.

    Args:
        keep: (module, its input, its output (B, c, h, w)) -> what the map needs of the forward pass.
        fold: (what was kept, gradient (B, c, h, w)) -> map (B, h, w).
    """
    found = _Recorded()

    def watch(name: str, module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise RectifyError(f"layer: {name} returns {type(output).__name__}, not one float tensor; choose another.")
        spatial = spatial_grid(output.detach(), size, name, who)
        kept = keep(module, inputs[0].detach() if inputs else output.detach(), spatial)
        found.calls[name] += 1
        call = found.calls[name]
        passed = output
        if not output.requires_grad:  # the graph begins here, at a leaf, which nothing may overwrite
            leaf = output.detach().requires_grad_()
            found.leaves.append(leaf)
            passed = leaf.clone()

        def arrive(gradient: Tensor) -> None:
            if call == found.calls[name]:
                found.maps[name] = fold(kept, spatial_grid(gradient, size, name, who))

        passed.register_hook(arrive)
        return passed

    handles = []
    for name, module in layers.items():
        found.calls[name] = 0
        handles.append(
            module.register_forward_hook(lambda module, inputs, output, name=name: watch(name, module, inputs, output))
        )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layer_maps(
    model: nn.Module, images: Tensor, target: Tensor, layers: Layers, keep: Keep, fold: Fold, who: str
) -> dict[str, Tensor]:
    """Return maps (B, H, W) at the size of the images by layer, in one forward and one backward pass."""
    named = dict(find_layer(model, layer) for layer in layers)
    size = (images.shape[-2], images.shape[-1])
    with frozen_eval(model, input_gradients=True), recorded_maps(named, keep, fold, size, who) as found:
        maps = found.backward(target_logit(model, images.detach().clone(), target))
    return {name: upsampled(map, size) for name, map in maps.items()}
