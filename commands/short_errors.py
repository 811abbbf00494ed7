"""Turn jsonargparse's nested reports into one sentence: the key, the value, the remedy."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ..errors import did_you_mean
from ..names import ROOMS, public_names


def short_error(message: str, options: Iterable[str], arguments: list[str]) -> str:
    """Return the sentence for a parse error.

    Args:
        message: jsonargparse's own report.
        options: every key the parser accepts.
        arguments: the command line, whose values and files are searched for the key that a report leaves out.
    """
    key = match[1] if (match := re.search(r'Parser key "([^"]+)"', message)) else ""
    if unknown := re.search(r"Option '(\w+)' is not accepted", message):
        return _unknown_init_argument(unknown[1], arguments)
    if unknown := re.search(r"does not accept option '([^']+)'|unrecognized arguments: --([\w.]+)", message):
        name = unknown[1] or unknown[2]
        return f"{name} is no option.{did_you_mean(name, options)}"
    if denied := re.search(r"Importing '([^']+)' is not allowed", message):
        return f"{key}: {denied[1]} may not be named in a config.{_allow_hint(denied[1])}"
    if unknown := re.search(r"dot import path string: (\S+)", message):
        place = _place_of_class(key, unknown[1], arguments)
        return f"{place}: {unknown[1]!r} is no known class.{did_you_mean(unknown[1], _known_classes())}"
    if missing := re.search(r"class_path '([^']+)':\s+((?:module .* has no attribute|No module named) .+)", message):
        return f"{_place_of_class(key, missing[1], arguments)}: {missing[1]} cannot be imported ({missing[2].strip()})."
    if required := re.search(r"arguments are required: (.+)", message):
        return _missing([name.strip() for name in required[1].split(",")], arguments)
    if 'expected "subcommand"' in message:
        return "A subcommand must be given: fit, validate, test, predict or unlearn, as in `fit -c quickstart`."
    return _wrong_value(key, message, arguments)


def _missing(names: list[str], arguments: list[str]) -> str:
    """Keys without a value. jsonargparse gives those of a class without their place; the command line may tell it."""
    if not any(argument.startswith(("-c", "--config")) for argument in arguments):
        missing = ", ".join(name.split(".", 1)[-1] for name in names)
        return f"{missing} must be given; start from a config such as -c quickstart."
    for option, class_path in _chosen_classes(arguments):
        if set(names) <= set(_init_arguments(class_path)):
            missing = ", ".join(f"{option}.{name}" for name in names)
            return f"{missing} must be given; {class_path.rpartition('.')[2]} has no default for it."
    return f"{', '.join(name.split('.', 1)[-1] for name in names)} must be given."


def _chosen_classes(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """(option, class) of each `--option Class` or `--option=Class` of the command line, the last first."""
    for flag, value in reversed([*pairwise([*arguments, ""])]):
        option, equals, given = flag.partition("=")
        name = given if equals else value
        if option.startswith("--") and re.fullmatch(r"[\w.]*[A-Z]\w*", name):
            yield option.removeprefix("--").removesuffix(".class_path"), name


def _place_of_class(key: str, class_path: str, arguments: list[str]) -> str:
    """The whole path of a key that is given this class; jsonargparse names only its last part."""
    if not key or "." in key:
        return key
    options = (option for option, name in _chosen_classes(arguments) if name == class_path)
    filed = (
        f"{path}.init_args.{key}"
        for config in reversed(_configs(arguments))
        for path, node in _classes_in(config, "")
        if _named(node["init_args"].get(key)) == class_path
    )
    return next((path for path in (*options, *filed) if path.rpartition(".")[2] == key), key)


def _wrong_value(key: str, message: str, arguments: list[str]) -> str:
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    if key and "." not in key:  # jsonargparse names only the last part of an init argument
        key = next((path for path, _ in _mentions(key, arguments)), key)
    value = match[1] if (match := re.search(r"(?:Got value|Given value): (.+)", message)) else None
    wanted = re.findall(r"Expected an? <class '([^']+)'>", message)
    choices = [
        choice
        for listed in re.findall(r"Expected a typing\.Literal\[([^\]]+)\]", message)
        for choice in listed.split(", ")
    ]
    if value is not None and choices:
        return (
            f"{key} is {value}; choose one of {', '.join(dict.fromkeys(choice.strip(chr(39)) for choice in choices))}."
        )
    if value is not None and wanted:
        kinds = " or ".join(dict.fromkeys("null" if kind == "NoneType" else kind for kind in wanted))
        return f"{key} is {value}; it must be of type {kinds}."
    reasons = [line for line in lines[bool(key) :] if not line.startswith(("Expected a path", "Does not validate"))]
    return f"{key}: {reasons[0]}." if key and reasons else f"{' '.join(lines)}."


def _unknown_init_argument(name: str, arguments: list[str]) -> str:
    for path, class_path in _mentions(name, arguments):
        accepted = _init_arguments(class_path) if class_path else []
        owner = f" by {class_path.rpartition('.')[2]}" if class_path else ""
        return f"{path} is not accepted{owner}.{did_you_mean(name, accepted)}"
    return f"{name} is not accepted."


def _mentions(name: str, arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield (key path, class path beside it) for each place in the command line or its files that sets `name`."""
    configs = _configs(arguments)
    for argument in arguments:
        if (match := re.match(r"--([\w.]+)", argument)) and match[1].rpartition(".")[2] == name:
            owner = match[1].rpartition(".")[0].removesuffix(".init_args")
            chosen = [name for option, name in _chosen_classes(arguments) if option == owner]
            filed = [found for config in reversed(configs) if (found := _class_at(config, owner))]
            yield match[1], next(iter([*chosen, *filed]), None)
    for config in reversed(configs):
        for path, node in _classes_in(config, ""):
            if name in node["init_args"]:
                yield f"{path}.init_args.{name}", node.get("class_path")


def _configs(arguments: list[str]) -> list[Any]:
    """The files of the command line, in their order."""
    files = [file for flag, file in pairwise(arguments) if flag in ("-c", "--config")]
    files += [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
    return [_read(file) for file in files]


def _classes_in(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each place that gives `init_args`, with its path."""
    if isinstance(node, list):
        for position, item in enumerate(node):
            yield from _classes_in(item, f"{path}[{position}]")
    if isinstance(node, dict):
        if isinstance(node.get("init_args"), dict):
            yield path, node
        for key, item in node.items():
            yield from _classes_in(item, f"{path}.{key}".lstrip("."))


def _class_at(config: Any, path: str) -> str | None:
    for part in path.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return _named(config)


def _named(value: Any) -> str | None:
    """The class a value chooses, written short or with `class_path`."""
    value = value.get("class_path") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _read(file: str) -> Any:
    try:
        return yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError):
        return None


def _init_arguments(class_path: str) -> list[str]:
    name = class_path.rpartition(".")[2]
    found = _classes().get(name)
    return [p for p in inspect.signature(found).parameters if p != "self"] if found else []


def _known_classes() -> set[str]:
    return set(_classes())


def _classes() -> dict[str, type]:
    """Every class a config can name by its short name."""
    import importlib

    import torch
    from pytorch_lightning import callbacks

    found: dict[str, type] = {}
    for module in (torch.optim, torch.optim.lr_scheduler, callbacks):
        found |= {name: value for name, value in vars(module).items() if isinstance(value, type) and name[0].isupper()}
    for room in ROOMS:
        for name, module_name in public_names(room).items():
            if name[0].isupper():
                found[name] = getattr(importlib.import_module(module_name), name)
    return found


def _allow_hint(path: str) -> str:
    top = path.split(".")[0]
    if top in sys.stdlib_module_names:
        return " Name a class of this package."
    return f" Name a class of this package, or allow your own with --allow {top} on the command line."
