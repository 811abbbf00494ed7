"""Convolutions that take their batch norm into their weights for the length of an attack."""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PLAIN = (bool, int, str, type(None))
CONTAINERS: Any = (dict, OrderedDict, list, set, deque)
Pairs = list[tuple[str, str]]

MOST = 8  # graphs of one network; one that changes more often, a counter say, is not worth a trace each time

_found: WeakKeyDictionary[nn.Module, dict[Hashable, Pairs]] = WeakKeyDictionary()


def foldable(backbone: nn.Module) -> Pairs:
    """Return the names of each convolution and the batch norm that alone reads its output.

    They are read off the graph that torch.fx traces, once a network and setting of its flags; one that it cannot trace
    has none. The trace runs the Python of `forward` once more and takes back what that wrote to the modules. While
    hooks are on that would meet the tracer's placeholders, an unknown network is not traced.
    """
    if not any(type(module) in NORMS for module in backbone.modules()):
        return []
    known, flags = _found.setdefault(backbone, {}), _flags(backbone)
    if flags not in known:
        if len(known) >= MOST or any(
            module._forward_hooks or module._forward_pre_hooks for module in backbone.modules()
        ):
            return []
        try:
            with _written_back(backbone):
                graph = torch.fx.Tracer().trace(backbone)
            known[flags] = _pairs(backbone, graph)
        except Exception:  # whatever stops the tracer, the network runs as it is
            known[flags] = []
    return known[flags]


def _flags(backbone: nn.Module) -> Hashable:
    """What a forward may branch on: the plain attributes of each module, and which modules there are."""
    return tuple(
        (name, type(module), *((k, v) for k, v in vars(module).items() if k != "training" and type(v) in PLAIN))
        for name, module in backbone.named_modules()
    )


@contextmanager
def _written_back(backbone: nn.Module) -> Iterator[None]:
    """Undo what the block does to the attributes of the modules and to the containers among them."""
    kept = [(module, dict(vars(module))) for module in backbone.modules()]
    held = [(v, copy(v)) for _, state in kept for v in state.values() if type(v) in CONTAINERS]
    try:
        yield
    finally:
        for container, content in held:  # the same object, since others may hold it
            container.clear()
            (container.extend if isinstance(container, list | deque) else container.update)(content)
        for module, state in kept:
            vars(module).clear()
            vars(module).update(state)


def _pairs(backbone: nn.Module, graph: torch.fx.Graph) -> Pairs:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    named = dict(backbone.named_parameters())
    kind = {node: type(backbone.get_submodule(node.target)) for node in calls if targets.count(node.target) == 1}
    # a weight that the forward also reads itself must stay what it is
    read = {id(named[n.target]) for n in graph.nodes if n.op == "get_attr" and n.target in named}
    pairs = []
    for node, its_kind in kind.items():
        before: Any = node.args[0] if its_kind in NORMS and len(node.args) == 1 else None
        if kind.get(before) not in CONVOLUTIONS or len(before.users) > 1:
            continue
        own = [*backbone.get_submodule(before.target).parameters(), *backbone.get_submodule(node.target).parameters()]
        if not any(id(parameter) in read for parameter in own):
            pairs.append((before.target, node.target))
    return pairs


@contextmanager
def folded(backbone: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Pass batch norms in evaluation mode over, and yield the weights and biases that stand in for them, by name.

    A pair is left as it is if a hook looks at it or another forward has been put in its place.
    """
    ready: dict[str, Tensor] = {}
    passed: list[Any] = []
    try:
        for first, second in foldable(backbone):
            convolution: Any = _module(backbone, first)
            norm: Any = _module(backbone, second)
            if type(convolution) not in CONVOLUTIONS or type(norm) not in NORMS or _watched(convolution, norm):
                continue
            if norm.training or norm.running_mean is None:
                continue
            ready[f"{first}.weight"], ready[f"{first}.bias"] = _fold(convolution, norm)
            norm.forward = _same
            passed.append(norm)
        yield ready
    finally:
        for norm in passed:
            del norm.forward


@torch.no_grad()
def _fold(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    shift = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)
    return convolution.weight * scale.view(-1, *[1] * (convolution.weight.ndim - 1)), shift


def _module(backbone: nn.Module, name: str) -> nn.Module | None:
    try:
        return backbone.get_submodule(name)
    except AttributeError:  # taken out since
        return None


def _watched(*modules: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any("forward" in vars(module) or any(vars(module)[name] for name in hooks) for module in modules)


def _same(x: Tensor) -> Tensor:
    return x
