"""The warning before a kill: a handler that only notes the signal, so light that it stands before torch is imported."""

import os
import signal
import threading
from collections.abc import Collection, Iterable
from typing import Any

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
_noted: set[int] = set()


def watch_start_up(arguments: Collection[str]) -> None:
    """Note warnings from now on, if this trains and may be requeued: what they do by default is to kill."""
    preemptible = "SLURM_JOB_ID" in os.environ or any("preemption" in argument.lower() for argument in arguments)
    if {"fit", "unlearn"}.intersection(arguments) and preemptible:
        for signum in WARNINGS:
            watch(signum)


def watch(signum: int) -> Any:
    """Note this signal from now on; return the handler before, None if it is watched already."""
    before = signal.getsignal(signum)
    if before is _note or threading.current_thread() is not threading.main_thread():
        return None
    _noted.discard(signum)  # of an earlier watch
    signal.signal(signum, _note)
    return before


def warned(signum: int) -> bool:
    """Whether the signal came since it is watched."""
    return signum in _noted


def forget(signum: int) -> None:
    """Take the warning as answered."""
    _noted.discard(signum)


def restore(signum: int, handler: Any) -> None:
    """Put back the handler that `watch` returned; with None the signal stays watched."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signum, handler)
        _noted.discard(signum)


def hand_back(kept: Iterable[int]) -> None:
    """Let signals nobody will ask for do again what they do by default, also those that were noted."""
    for signum in set(WARNINGS).difference(kept):
        if signal.getsignal(signum) is _note:
            came = warned(signum)
            restore(signum, signal.SIG_DFL)
            if came:
                os.kill(os.getpid(), signum)


def _note(signum: int, frame: Any) -> None:
    _noted.add(signum)  # forked loader workers inherit this handler and lose nothing by it
