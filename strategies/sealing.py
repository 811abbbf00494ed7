"""Seals on checkpoint folders, so that only folders written by this user's own runs are ever unpickled.

DeepSpeed reads its folders with full pickle: loading a foreign one runs whatever its author put into it. A run seals
what it writes with a keyed hash over the contents of all files; the key never leaves the user's data folder. The seal
is written last, so it also tells a whole folder from one that a crash cut short.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from ..errors import RectifyError
from ..files import atomic_path, data_home, sha256

SEAL = "rectify.seal.json"


def _key() -> bytes:
    path = data_home() / "seal.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:  # exclusive: of two runs that start together one creates the key and the other reads it
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
    return path.read_text().strip().encode()


def _contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.name != SEAL and not path.is_dir())
    if links := [path for path in files if path.is_symlink()]:
        raise RectifyError(f"checkpoint {folder} holds the link {links[0].name}; put the file itself there.")
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def _signature(contents: dict[str, str]) -> str:
    return hmac.new(_key(), json.dumps(contents, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def seal(folder: Path) -> None:
    """Write the seal of a complete checkpoint folder (one process calls this)."""
    contents = _contents(folder)
    with atomic_path(folder / SEAL) as path:
        path.write_text(json.dumps({"files": contents, "signature": _signature(contents)}, indent=1))


def check_seal(folder: Path) -> None:
    """Return if `folder` is whole and was written by a run of this user.

    Raises:
        RectifyError: no such folder, no seal, a foreign seal, or a file that was added or changed since.
    """
    if not folder.is_dir():
        raise RectifyError(f"checkpoint {folder} is no folder; DeepSpeed resumes from the folder that its run wrote.")
    remedy = "resume where it was written, or pass a file made there by `consolidate`"
    try:
        stored = json.loads((folder / SEAL).read_text())
        files, signature = dict(stored["files"]), str(stored["signature"])
    except FileNotFoundError:
        raise RectifyError(
            f"checkpoint {folder} has no seal: it is incomplete or not from this project, and reading it could run "
            f"foreign code; {remedy}."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise RectifyError(f"checkpoint {folder} has a damaged seal; {remedy}.") from None
    if not hmac.compare_digest(signature, _signature(files)):
        raise RectifyError(f"checkpoint {folder} was sealed with another user's key; {remedy}.")
    found = _contents(folder)
    if changed := sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name)):
        raise RectifyError(f"checkpoint {folder}: {changed[0]} was added, removed or changed after saving; {remedy}.")
