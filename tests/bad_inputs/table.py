"""What a row of the table is. A later family adds a file `rows_<family>.py` with its own `ROWS` beside these."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

FIT = ("fit", "-c", "quickstart", "--model.backbone.width", 8, "--trainer.max_epochs", 1,
       "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")  # fmt: skip


class Row(NamedTuple):
    """A mistake and what has to be said of it.

    Attributes:
        name: the mistake, in a few words.
        arguments: of the command line, in a folder that holds `base.ckpt` (a trained checkpoint) and `shards/` (a copy
            of the digits).
        said: parts of the one line on stderr: the key, the value, the remedy.
        prepare: spoils something in the folder first.
    """

    name: str
    arguments: Sequence[object]
    said: Sequence[str]
    prepare: Callable[[Path], None] | None = None


def write(name: str, text: str) -> Callable[[Path], None]:
    """A `prepare` that writes one file."""
    return lambda folder: (folder / name).write_text(text) and None
