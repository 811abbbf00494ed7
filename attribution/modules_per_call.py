"""A copy of a network in which every call of an activation is a module of its own, as Captum's DeepLIFT needs it."""

from torch import Tensor, fx, nn

from .known_operations import _activation
from .pooling_windows import _apart
from .recorded_operations import _traced_graph


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


def _replace(
    traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, inputs: tuple, others: dict | None = None
) -> None:
    traced.add_submodule(name, module)
    node.op, node.target, node.args, node.kwargs = "call_module", name, inputs, others or {}


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _finished(traced: fx.GraphModule) -> nn.Module:
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()
