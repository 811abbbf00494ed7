"""Put a new folder in the place of an old one, so that a kill leaves one of the two, whole and findable."""

import ctypes
import os
import shutil
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def swap(new: Path, target: Path) -> None:
    """Move the folder `new` to `target` and delete what was there.

    Linux exchanges the two names in one step. Where the file system cannot (NFS), there is a moment without `target`;
    then the folder before is `displaced(target)`, a name that a search for `last*.ckpt` finds as well.
    """
    old = displaced(target)
    if not target.is_dir() or target.is_symlink():
        if target.exists() or target.is_symlink():
            target.unlink()
        new.rename(target)
    elif _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
    else:
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        new.rename(target)
    shutil.rmtree(old, ignore_errors=True)  # also what a kill left; only now, for it may have been the last good one


def displaced(target: Path) -> Path:
    """Return the name of the folder before while a new one takes its place: `last.old.ckpt` for `last.ckpt`."""
    return target.with_name(f"{target.stem}.old{target.suffix}")


def present(target: Path) -> Path:
    """Return `target`, or the folder before if a kill fell between the two renames."""
    return displaced(target) if not target.exists() and displaced(target).is_dir() else target


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
