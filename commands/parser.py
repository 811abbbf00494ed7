"""The argument parser: which class paths a config may name, and errors of one sentence."""

import sys
from typing import ClassVar, NoReturn

from jsonargparse import set_parsing_settings
from pytorch_lightning.cli import LightningArgumentParser

from ..names import PACKAGE, import_rooms
from .short_errors import short_error

ALLOWED = (PACKAGE, "pytorch_lightning", "torch.nn", "torch.optim")
_allowed_before: set[str] = set()
"""Of this process: jsonargparse adds to its lists and never takes away."""


def restrict_imports(extra: list[str]) -> None:
    """Let configs name only classes of ours, Lightning, torch.nn, torch.optim and the user's own `--allow` packages.

    Without this a YAML file can name `os.system` wherever a callable is expected. What an earlier call in this process
    allowed is denied again.
    """
    set_parsing_settings(
        omegaconf_absolute_to_relative_paths=True,  # `${data.classes}` then works across files and subcommands
        import_path_denylist=["*", *sorted(_allowed_before)],
        import_path_allowlist=[*ALLOWED, *extra],
    )
    _allowed_before.update(extra)
    import_rooms()


class ShortErrorParser(LightningArgumentParser):
    """Ends in the error and a hint, where the parent prints sixty lines of usage first."""

    arguments: ClassVar[list[str]] = []
    """The command line, to find the key that an error is about."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)  # a typo must not pass as an abbreviation

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"error: {short_error(message, self.option_names(), self.arguments)}", file=sys.stderr)
        sys.exit(2)

    def option_names(self) -> set[str]:
        """Every key this parser and its subcommands accept."""
        names = {action.dest for action in self._actions}
        subcommands = getattr(self, "_subcommands_action", None)
        for parser in getattr(subcommands, "_name_parser_map", {}).values():
            names |= parser.option_names()
        return names
