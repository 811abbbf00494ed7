"""A copy of a network in which every operation is a module with a rule of layer-wise relevance."""

from copy import deepcopy

import torch
from torch import Tensor, fx, nn

from ..backbones.backbone import Normalize
from .known_operations import CONSTANTS, DROPPED, LINEAR_MODULES, NOTHING, PLAIN, _activation, _is_linear
from .modules_per_call import _finished, _replace, _source
from .operation_modules import _method, _Operation
from .recorded_operations import _traced_graph


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
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        if node.op == "call_module" and any(before in made for before in node.all_input_nodes):
            _check_rule(traced.get_submodule(str(node.target)))
        if node not in made:
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
            raise ValueError(f"it has no rule for {_name(node)}; use integrated_gradients")
        target = PLAIN.get(node.target, node.target)
        call = target if node.op == "call_function" else _method(str(target))
        operation = _Operation(call, node.args, node.kwargs, inputs)  # type: ignore[arg-type]
        operation.rule = EpsilonRule()  # type: ignore[assignment]
        others = {before.name: before for before in node.all_input_nodes if before not in made}
        _replace(traced, node, f"each{place}", operation, inputs, others)
    return _finished(traced), start


def _check_rule(module: nn.Module) -> None:
    """Refuse a module that Captum would refuse in words of its own, or look into."""
    from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS

    known = type(module) in {*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS}
    if not known and not hasattr(module, "rule") and not isinstance(module, (*NOTHING, *LINEAR_MODULES)):
        raise ValueError(f"it has no rule for {type(module).__name__}; use integrated_gradients")


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


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))
