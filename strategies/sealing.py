"""Seals on checkpoint folders, so that only folders written by this user's own runs are ever unpickled.

DeepSpeed reads its folders with full pickle: loading a foreign one runs whatever its author put into it. A run seals
what it writes with a keyed hash over the contents of all files. The key lies in the user's configuration folder
($XDG_CONFIG_HOME or ~/.config), not with the data: data folders are often local to a node, and a job that is requeued
elsewhere must know its own seal. The seal is written last, so it also tells a whole folder from one that a crash cut
short.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import RectifyError
from ..files import atomic_path, sha256

SEAL = "rectify.seal.json"
_KEY_LENGTH = 64


def _key() -> bytes:
    path = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "lightning_rectify" / "seal.key"
    try:
        if not path.exists():
            _create_key(path)
        key = path.read_text().strip()
    except OSError as error:
        raise RectifyError(
            f"the key of checkpoint seals {path} cannot be read or created ({error.strerror or error}); "
            "set XDG_CONFIG_HOME to a folder that every node sees."
        ) from error
    if len(key) != _KEY_LENGTH:
        raise RectifyError(
            f"{path} holds no key of checkpoint seals; delete it, and read older folders with trust_checkpoints: true."
        )
    return key.encode()


def _create_key(path: Path) -> None:
    """Write the key beside its place and link it there: never seen half-written, and of two runs the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".seal.key.")  # readable by its user alone
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_KEY_LENGTH // 2))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


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
