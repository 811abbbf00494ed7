"""Which LightningModule a command line is about: the key `module`, read before the parser exists.

The module's constructor decides which keys `model` has. So the parser is built for one class, and `model` stays flat:
every other config is written the same for all modules.
"""

import importlib
from pathlib import Path

import yaml
from pytorch_lightning import LightningModule

from ..errors import RectifyError, did_you_mean
from ..names import PACKAGE, public_names
from .parser import ALLOWED

DEFAULT = "Classifier"


def choose_module(arguments: list[str], allowed: list[str]) -> type[LightningModule]:
    """Return the class that the last `--module NAME` or `module: NAME` of the configs names.

    By default an Unlearner for the command unlearn, and a Classifier for the others.

    Args:
        arguments: the command line, config names resolved to paths.
        allowed: the user's own packages (`--allow`), of which a class is named by its full path.

    Raises:
        RectifyError: there is no such module, or it is none that trains.
    """
    name = _named(arguments)
    known = {
        known: module for known, module in public_names("lightning_modules").items() if _trains(_found(module, known))
    }
    own, _, short = name.rpartition(".")
    if not own or own.startswith(f"{PACKAGE}."):
        if short not in known:
            raise RectifyError(f"module is {name!r}, which is no module here.{did_you_mean(short, known)}")
        return _found(known[short], short)
    if name.split(".")[0] not in [*ALLOWED, *allowed]:
        raise RectifyError(f"module: {name} may not be named in a config; allow it with --allow {name.split('.')[0]}.")
    try:
        found = _found(own, short)
    except (ImportError, AttributeError) as error:
        raise RectifyError(f"module: {name} cannot be imported ({error}); give its import path.") from error
    if not _trains(found):
        raise RectifyError(f"module: {name} is no LightningModule; name a class that trains.")
    return found


def _named(arguments: list[str]) -> str:
    """The last word of the command line; a config counts where it stands in it."""
    name, flag = DEFAULT, ""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if flag in ("-c", "--config"):
            name = _in_file(argument) or name
        elif flag == "--module":
            name = argument
        elif key == "--config" and equals:
            name = _in_file(value) or name
        elif key == "--module" and equals:
            name = value
        flag = argument
    # a classifier forgets as an Unlearner, also where the config of its training names it
    return "Unlearner" if name == DEFAULT and arguments[:1] == ["unlearn"] else name


def _in_file(path: str) -> str | None:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None  # the parser says what is wrong with it
    named = content.get("module") if isinstance(content, dict) else None
    return None if named is None else str(named)


def _found(module: str, name: str) -> type:
    return getattr(importlib.import_module(module), name)


def _trains(found: object) -> bool:
    if not isinstance(found, type) or not issubclass(found, LightningModule):
        return False
    return found.__name__ != "Rectifier"  # the base of the others evaluates nothing
