"""Find the layer to explain, and its output."""

from typing import Any

from torch import Tensor, nn

from ..errors import RectifyError, did_you_mean
from ..frozen import frozen_eval
from .score import logits_of
from .tokens import _channels_last


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
    known = [name.removeprefix("backbone.") for name in layers]
    raise RectifyError(f"layer: {type(model).__name__} has no layer {layer!r}.{did_you_mean(layer, known)}")


def last_spatial_layer(model: nn.Module, image: Tensor) -> str | None:
    """Return the name of the last module to output (B, C, h, w) with h·w > 1, or of a transformer's last block but one.

    Where nothing is shaped so, the last with channels last, as in Swin transformers.

    None if there is neither.

    The output must be shaped like the image: heads of attention (B, heads, N, d) and channels last are not. Where
    tokens (B, N, D) follow, as after a patch embedding, what came before them does not count. One
    forward pass over `image` (B, C, H, W) tells. Of a block and its last child, which end together, the block is named.
    Modules before the first one with parameters (a normalisation) do not count.
    """
    found: list[str] = []
    turned: list[str] = []  # with channels last
    learned = False
    tokens: set[int] = set()

    def note(name: str, module: nn.Module, output: Any) -> None:
        nonlocal learned
        learned = learned or next(module.parameters(), None) is not None
        if not learned or not isinstance(output, Tensor):
            return
        if output.ndim == 3 and output.shape[1] > 1:
            tokens.add(output.shape[1])
            found.clear()
            turned.clear()
        if output.ndim == 4 and output.shape[2] not in tokens:
            if _like_image(output, image):
                found.append(name)
            elif output.shape[1:3].numel() > 1 and _channels_last(output, (image.shape[2], image.shape[3])):
                turned.append(name)

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with frozen_eval(model):
            logits_of(model, image)
    finally:
        for handle in handles:
            handle.remove()
    if maps := found or turned:
        return maps[-1]
    if not tokens:
        return None
    stages = spatial_layers(model, image)
    return stages[-1] if stages and stages[-1].rpartition(".")[0] in _stacks(model) else None


def spatial_layers(model: nn.Module, image: Tensor) -> list[str]:
    """Return the names of the outermost modules with a convolution or a patch embedding and a spatial output.

    In a ResNet these are its stem and stages, in a Sequential its convolutions, in a transformer its patch embedding
    and blocks, without the last one where a class token alone reads it.
    They stand in the order in which they run. One forward pass over `image` (B, C, H, W) tells.
    """
    outputs: list[str] = []
    size = image.shape[2:]
    tokens: dict[str, int] = {}

    def spatial(output: Any) -> bool:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return False
        if output.ndim == 4:
            return output.shape[2:].numel() > 1
        return output.ndim == 3 and 1 < output.shape[1] <= size.numel()

    def note(name: str, output: Any) -> None:
        if spatial(output) and name not in outputs:
            outputs.append(name)
            if output.ndim == 3:
                tokens[name] = output.shape[1]

    learned = [
        name
        for name, module in model.named_modules()
        if name and any(len(_shape(parameter)) >= 2 for parameter in module.parameters())
    ]
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda module, _, output, name=name: note(name, output)) for name in learned
    ]
    try:
        with frozen_eval(model):
            logits_of(model, image)
    finally:
        for handle in handles:
            handle.remove()
    outer = [name for name in outputs if not any(name.startswith(f"{other}.") for other in outputs)]
    return [part for name in outer for part in _blocks(model, name, tokens, image)]


def _blocks(model: nn.Module, name: str, tokens: dict[str, int], image: Tensor) -> list[str]:
    """The blocks of a transformer's encoder, for anything else its own name.

    Where a class token reads the others, nothing reads the patches after the last block: their gradient is 0 there.
    """
    inside = [stack for stack in _stacks(model) if f"{stack}.".startswith(f"{name}.")]
    blocks = [part for part in tokens if part.rpartition(".")[0] in inside]
    if name not in tokens or not blocks:
        return [name]
    height, width = image.shape[2:]
    count = tokens[blocks[-1]]
    rows = round((count * height / width) ** 0.5)
    only_patches = rows > 0 and rows * (rows * width // height) == count
    return blocks if only_patches else blocks[:-1]


def _stacks(model: nn.Module) -> set[str]:
    """The names of what holds nothing but modules of one class that have parts of their own, as blocks do."""
    found = set()
    for name, module in model.named_modules():
        parts = list(module.children())
        alike = isinstance(module, nn.Sequential | nn.ModuleList) and len({type(part) for part in parts}) == 1
        if alike and next(parts[0].children(), None) is not None:
            found.add(name)
    return found


def _like_image(output: Tensor, image: Tensor) -> bool:
    h, w = output.shape[2:]
    height, width = image.shape[2:]
    aspect = h * width / max(1, w * height)  # borders and rounding move it
    return h * w > 1 and h <= height and w <= width and 0.5 <= aspect <= 2


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty vector in place of a weight
