"""What an operation of a network is, as far as Captum's rules go: an activation, a sum, linear, or nothing."""

import inspect
import operator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

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


def _is_linear(node: fx.Node, made: dict[fx.Node, Tensor]) -> bool:
    if node.target not in LINEAR:
        return False
    images = sum(isinstance(part, fx.Node) and part in made for part in node.args)
    if node.target in CONSTANTS and node.target not in SUMS and images > 1:
        return node.target in {operator.sub, operator.isub, torch.sub, "sub"}
    divided = node.target in {operator.truediv, operator.itruediv, torch.div, "div"}
    return not divided or (isinstance(node.args[0], fx.Node) and node.args[0] in made)
