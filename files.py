"""Files: written whole or not at all, named safely, found in one place."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RectifyError

_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `target` and rename it over the target when the block ends without error.

    Raises:
        RectifyError: the folder cannot be written, or the disk is full. The target is then untouched.
    """
    target = Path(target)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # what a plain open() would have given; mkstemp gives 0600, and so do libraries that make the file anew
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(target)
    except OSError as error:
        raise RectifyError(
            f"{target} cannot be written ({error.strerror or error}); free the disk or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def data_home() -> Path:
    """The folder of data sets and caches: $RECTIFY_DATA, else the user's cache folder."""
    if home := os.environ.get("RECTIFY_DATA"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "lightning_rectify"


def safe_name(name: str) -> str:
    """Turn a sample key or class name, which may hold `/` or `..`, into a plain file name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "_"
    return plain[:120]


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
