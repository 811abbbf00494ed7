"""The operations of a network as a graph of torch.fx, of a copy, with the value each one has for some images."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..backbones.backbone import Normalize


class _Traced(fx.Tracer):
    """A tracer that runs every operation beside recording it, so that a forward may branch on shapes.

    What depends on the contents of a tensor still cannot be recorded; torch.fx says so by an error.

    Attributes:
        values: what each node gave for the images.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.images = images
        self.values: dict[fx.Node, Any] = {}
        self._running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalize) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind != "output":
            self.values[proxy.node] = self._run(proxy.node)
        return proxy

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.values[obj.node]
        return super().to_bool(obj) if isinstance(value, Tensor) else bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator:
        value = self.values[obj.node]
        items: Any = obj
        return iter([items[place] for place in range(len(value))]) if isinstance(value, tuple) else super().iter(obj)

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.images
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        self._running = True
        try:
            if node.op == "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)  # type: ignore[arg-type]
            found = self.root
            for name in str(node.target).split("."):
                found = getattr(found, name)
            return found.forward(*args, **kwargs) if node.op == "call_module" else found
        finally:
            self._running = False


def _traced_graph(model: nn.Module, images: Tensor) -> tuple[fx.GraphModule, dict[fx.Node, Tensor]]:
    """Return a copy of the network as a graph, and the nodes that are float tensors made of the images, with values.

    Args:
        model: maps images to logits, with the modes it is to be traced in.
        images: (B, C, H, W); tracing runs the network on them once.

    Raises:
        Exception: what torch.fx or the network itself raises where its forward cannot be recorded.
    """
    copy = deepcopy(getattr(model, "_orig_mod", model))
    tracer = _Traced(images.detach())
    with torch.no_grad():
        graph = tracer.trace(copy)
    made: dict[fx.Node, Tensor] = {}
    for node in graph.nodes:
        value = tracer.values.get(node)
        comes = node.op == "placeholder" or any(before in made for before in node.all_input_nodes)
        if comes and isinstance(value, Tensor) and value.is_floating_point():
            made[node] = value
    return fx.GraphModule(copy, graph), made
