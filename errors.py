"""The one error a user sees: a sentence that names the key, the value and the remedy."""

import difflib
from collections.abc import Iterable


class RectifyError(ValueError):
    """A mistake in a config, a data set or a checkpoint, said in one sentence; the command line exits with code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean X?"` for the nearest known name, else the list of known names, else nothing."""
    known = sorted(known)
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {lower[close[0]]}?"
    return f" Known: {', '.join(known)}." if known and len(known) <= 40 else ""
