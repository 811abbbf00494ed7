"""Which folder a `source` names, and the data sets that are built by name on first use."""

import os
from pathlib import Path
from typing import Any

from ..errors import RectifyError, did_you_mean
from ..files import data_home, sha256
from ..randomness import fold

# what build_shards gets; `build` in a config adds to it or overrides it
KNOWN: dict[str, dict[str, Any]] = {
    "digits": {"source": "digits"},
    "glyphs": {"source": "glyphs"},
    "two_gaussians": {"source": "two_gaussians"},
    "fashion_mnist": {"source": "/usr/share/datasets/fashion-mnist"},  # where Debian's dataset-fashion-mnist lies
    "cifar10": {"source": "torchvision:CIFAR10"},
    "block_digits": {"source": "blocks:digits"},
    "block_fashion_mnist": {"source": "blocks:/usr/share/datasets/fashion-mnist"},
}


def is_stream(source: str) -> bool:
    """Whether a source is shards by name or pattern, to be streamed without an index."""
    return "{" in source or "://" in source or source.startswith("pipe:") or source.endswith(".tar")


def resolve(source: str, build: dict[str, Any] | None) -> tuple[Path, dict[str, Any] | None]:
    """Return the folder of shards a source means, and how to build it if that can be done.

    Raises:
        RectifyError: the source is neither a known name nor a manifest or its folder, and nothing says how to build it.
    """
    build = dict(build or {})
    if source in KNOWN or build:
        recipe = {"name": source, **KNOWN.get(source, {}), **build}
        if "source" not in recipe:
            raise RectifyError(f"data.build lacks source, from which data.source {source!r} is to be built.")
        # whatever gives other shards, the place they are built from too, gives another folder
        usual = KNOWN.get(source, {})
        options = sorted((key, _placed(key, value)) for key, value in build.items() if value != usual.get(key))
        suffix = f"-{fold(str(options)) % 16**8:08x}" if options else ""
        return data_home() / f"{source}{suffix}", recipe
    path = Path(source).expanduser()
    folder = path.parent if path.suffix == ".json" else path
    if not path.exists():
        raise RectifyError(
            f"data.source {source!r} is no folder of shards and no known name.{did_you_mean(source, KNOWN)}"
        )
    return folder, None


def check_built_from(folder: Path, source: str, built_from: str) -> None:
    """Compare the file `source` with the SHA-256 of the one that `folder` was built from, if there are both.

    Raises:
        RectifyError: the file has changed since.
    """
    path = Path(source.removeprefix("blocks:")).expanduser()
    if built_from and path.is_file() and sha256(path) != built_from:
        raise RectifyError(
            f"data.build.source {path} has changed since {folder} was built from it; remove that folder to build it "
            "again, or give the new file a name of its own."
        )


def _placed(key: str, value: Any) -> str:
    """An option as text, with paths made absolute: `a.npz` is another file in another working folder."""
    text = str(value)
    if key == "root":
        return os.path.abspath(os.path.expanduser(text))
    if key != "source" or text in KNOWN or text.startswith("torchvision:"):
        return text
    kind, colon, folder = text.rpartition(":")  # cub:FOLDER
    return kind + colon + os.path.abspath(os.path.expanduser(folder))
