"""A copy of a network in which every activation and sum is a module of its own, as Captum's rules need it."""

import inspect
import operator
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..backbones.backbone import Normalize
from .recorded_operations import _traced_graph

ACTIVATIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid", torch.sigmoid_, "sigmoid_"), nn.Sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh", torch.tanh_, "tanh_"), nn.Tanh),
    F.leaky_relu: nn.LeakyReLU,
    F.leaky_relu_: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.softplus: nn.Softplus,
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    F.mish: nn.Mish,
    F.relu6: nn.ReLU6,
    F.hardswish: nn.Hardswish,
    F.max_pool2d: nn.MaxPool2d,
    F.softmax: nn.Softmax,
}
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)  # in eval mode
DROPPED = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, torch.dropout}
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
CONSTANTS = SUMS | {operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv, operator.itruediv}
CONSTANTS |= {torch.sub, torch.mul, torch.div, "sub", "mul", "div"}
LINEAR = CONSTANTS | {
    *(torch.mean, "mean", torch.sum, "sum", F.avg_pool2d, F.adaptive_avg_pool2d, F.conv2d, torch.conv2d, F.linear),
    *(torch.flatten, "flatten", "view", "reshape", torch.reshape, "permute", "transpose", "contiguous", "squeeze"),
    *(torch.squeeze, "unsqueeze", torch.unsqueeze, torch.cat, torch.concat, F.pad, F.interpolate, operator.getitem),
}
PLAIN = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul, "add_": "add"}
LINEAR_MODULES = (nn.Flatten, nn.Unflatten, nn.BatchNorm1d, nn.ZeroPad2d, nn.Upsample, nn.ConvTranspose2d)


class _Operation(nn.Module):
    """A linear function or method as a module; the activations it takes are its positional inputs."""

    def __init__(self, call: Callable, places: Any, options: Any, inputs: tuple[fx.Node, ...]):
        super().__init__()
        self.call, self.inputs = call, [node.name for node in inputs]
        self.template = fx.node.map_arg((places, options), lambda node: _Place(node.name))

    def forward(self, *tensors: Tensor, **others: Any) -> Tensor:
        values = dict(zip(self.inputs, tensors, strict=True)) | others
        places, options = _filled(self.template, values)
        return self.call(*places, **options)


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


class _Place(str):
    """Stands for the value of a node of this name."""


def _modular_copy(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy with a module of its own for each call of an activation or pooling; what remains is as it was.

    Overlapping windows of a maximum are laid side by side first: Captum's DeepLIFT writes what they share only once.

    Raises:
        Exception: as `_traced_graph`.
    """
    traced, made = _traced_graph(model, images)
    for place, node in enumerate(list(traced.graph.nodes)):
        module = _activation(traced, node)
        if module is None:
            continue
        source = _source(node)
        with traced.graph.inserting_before(node):  # Captum's hooks of two layers on one value see each other's gradient
            source = traced.graph.call_method("clone", (source,))
        _replace(traced, node, f"each{place}", module, (source,))
        if isinstance(module, nn.MaxPool2d):
            _apart(traced, node, module, (made[node].shape[2], made[node].shape[3]))
    return _finished(traced)


def _modular_copy_with_rules(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a copy whose operations are modules with a rule of layer-wise relevance each, and its input (B, C, H, W).

    Whatever normalises the image is left out and applied to the images instead: relevance is that of what the first
    layer sees. Linear operations, with batch norm among them, have the ε rule; sums share relevance by value.

    Raises:
        ValueError: an operation without a rule; its message names it.
        Exception: as `_traced_graph`.
    """
    from captum.attr._utils.lrp_rules import EpsilonRule

    traced, made = _traced_graph(model, images)
    begin = next(node for node in traced.graph.nodes if node.op == "placeholder")
    first = _normalised(traced, begin, made)
    start = made[first].clone()
    if first is not begin:
        first.replace_all_uses_with(begin, delete_user_cb=lambda user: user not in _upto(first))
        made[begin] = made[first]
        traced.graph.eliminate_dead_code()
    for place, node in enumerate(list(traced.graph.nodes)):
        if node.op in ("placeholder", "output", "get_attr") or node not in made:
            continue
        if node.target in DROPPED and torch.equal(made[node], made[_source(node)]):
            node.replace_all_uses_with(_source(node))
            traced.graph.erase_node(node)
            continue
        module = _activation(traced, node)
        if module is None and node.op == "call_module":
            module = deepcopy(traced.get_submodule(str(node.target)))
            if isinstance(module, NOTHING):
                node.replace_all_uses_with(_source(node))
                traced.graph.erase_node(node)
                continue
            if isinstance(module, LINEAR_MODULES):
                module.rule = EpsilonRule()  # type: ignore[assignment]
        if module is not None:
            source = _source(node)
            if len(source.users) > 1:  # Captum's hook on a value that others read would count its relevance twice
                link = _Operation(torch.clone, (source,), {}, (source,))
                link.rule = EpsilonRule()  # type: ignore[assignment]
                with traced.graph.inserting_before(node):
                    traced.add_submodule(f"link{place}", link)
                    source = traced.graph.call_module(f"link{place}", (source,))
            _replace(traced, node, f"each{place}", module, (source,))
            continue
        inputs = tuple(dict.fromkeys(before for before in node.all_input_nodes if before in made))
        if not _is_linear(node, made):
            raise ValueError(f"it has no rule for {_name(node)}")
        target = PLAIN.get(node.target, node.target)
        call = target if node.op == "call_function" else _method(str(target))
        operation = _Operation(call, node.args, node.kwargs, inputs)  # type: ignore[arg-type]
        operation.rule = EpsilonRule()  # type: ignore[assignment]
        others = {before.name: before for before in node.all_input_nodes if before not in made}
        _replace(traced, node, f"each{place}", operation, inputs, others)
    return _finished(traced), start


def _activation(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """A new module for the activation or pooling that the node calls, None if it calls something else."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        if type(module) not in {*ACTIVATIONS.values(), nn.MaxPool2d}:
            return None
        module = deepcopy(module)
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
        return module
    if node.op not in ("call_function", "call_method") or node.target not in ACTIVATIONS:
        return None
    kind = ACTIVATIONS[node.target]
    options = dict(node.kwargs)
    if callable(node.target) and len(node.args) > 1:
        told = F.max_pool2d_with_indices if node.target is F.max_pool2d else node.target  # the former names its options
        names = list(inspect.signature(told).parameters)
        options |= dict(zip(names[1:], node.args[1:], strict=False))
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in options.items() if name in known and name != "inplace"})


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


def _replace(
    traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, inputs: tuple, others: dict | None = None
) -> None:
    traced.add_submodule(name, module)
    node.op, node.target, node.args, node.kwargs = "call_module", name, inputs, others or {}


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _normalised(traced: fx.GraphModule, node: fx.Node, made: dict[fx.Node, Tensor]) -> fx.Node:
    """The last of what scales and shifts the image before anything else."""
    while True:
        users = [user for user in node.users if user in made]
        if len(users) != 1:
            return node
        (user,) = users
        module = traced.get_submodule(str(user.target)) if user.op == "call_module" else None
        constant = user.op != "call_module" and user.target in CONSTANTS and _is_linear(user, made)
        if not isinstance(module, Normalize | nn.Identity) and not constant:
            return node
        node = user


def _upto(node: fx.Node) -> set[fx.Node]:
    found, waiting = set(), [node]
    while waiting:
        at = waiting.pop()
        found.add(at)
        waiting += at.all_input_nodes
    return found


def _is_linear(node: fx.Node, made: dict[fx.Node, Tensor]) -> bool:
    if node.target not in LINEAR:
        return False
    images = sum(isinstance(part, fx.Node) and part in made for part in node.args)
    if node.target in CONSTANTS and node.target not in SUMS and images > 1:
        return node.target in {operator.sub, operator.isub, torch.sub, "sub"}
    divided = node.target in {operator.truediv, operator.itruediv, torch.div, "div"}
    return not divided or (isinstance(node.args[0], fx.Node) and node.args[0] in made)


def _method(name: str) -> Callable:
    return lambda tensor, *args, **options: getattr(tensor, name)(*args, **options)


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _filled(value: Any, values: dict[str, Any]) -> Any:
    if isinstance(value, _Place):
        return values[value]
    if isinstance(value, tuple | list):
        return type(value)(_filled(part, values) for part in value)
    if isinstance(value, slice):
        return slice(*(_filled(part, values) for part in (value.start, value.stop, value.step)))
    if isinstance(value, dict):
        return {key: _filled(part, values) for key, part in value.items()}
    return value


def _finished(traced: fx.GraphModule) -> nn.Module:
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()
