"""A recorded function or method as a module."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn


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


class _Place(str):
    """Stands for the value of a node of this name."""


def _method(name: str) -> Callable:
    return lambda tensor, *args, **options: getattr(tensor, name)(*args, **options)


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
