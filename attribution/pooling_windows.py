"""The overlapping windows of a maximum, laid side by side: Captum's DeepLIFT writes what they share only once."""

import torch.nn.functional as F
from torch import Tensor, fx, nn


class _Windows(nn.Module):
    """(B, C, h, w) to (B, C, size², places): the windows of a pooling side by side, so that none shares a value.

    Borders are replicated: the value is already in the window, so that its maximum stays.
    """

    def __init__(self, size: int, stride: int, padding: int, places: tuple[int, int]):
        super().__init__()
        self.size, self.stride, self.padding, self.places = size, stride, padding, places

    def forward(self, x: Tensor) -> Tensor:
        # as far as the last window reaches, which with ceil_mode is beyond the padding
        low, high = (
            max(0, (count - 1) * self.stride + self.size - length - self.padding)
            for count, length in zip(self.places, x.shape[2:], strict=True)
        )
        padded = F.pad(x, (self.padding, high, self.padding, low), mode="replicate")
        return F.unfold(padded, self.size, stride=self.stride).unflatten(1, (x.shape[1], -1))


class _Places(nn.Module):
    """(B, C, 1, places) back to (B, C, h', w')."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(3, self.size).squeeze(2)


def _apart(traced: fx.GraphModule, node: fx.Node, pool: nn.MaxPool2d, places: tuple[int, int]) -> None:
    sizes = (pool.kernel_size, pool.stride, pool.padding)
    size, stride, padding = (number[0] if isinstance(number, tuple) else number for number in sizes)
    square = all(not isinstance(number, tuple) or len(set(number)) == 1 for number in sizes)
    if not square or pool.dilation not in (1, (1, 1)):
        return
    name = str(node.target)
    traced.add_submodule(f"{name}_windows", _Windows(size, stride, padding, places))
    traced.add_submodule(f"{name}_places", _Places(places))
    traced.add_submodule(f"{name}_maximum", nn.MaxPool2d((size * size, 1)))
    with traced.graph.inserting_before(node):
        windows = traced.graph.call_module(f"{name}_windows", node.args)
        largest = traced.graph.call_module(f"{name}_maximum", (windows,))
        node.replace_all_uses_with(traced.graph.call_module(f"{name}_places", (largest,)))
    traced.graph.erase_node(node)
