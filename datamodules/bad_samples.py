"""Bad samples are skipped, counted and named, up to a share."""

import warnings

from ..errors import RectifyError


class BadSamples:
    """Keeps the keys of samples that cannot be used; a key counts once however often it is met.

    Args:
        share: largest tolerated share of `total`.
        total: how many there are.
        what: what they are, for the messages.
    """

    def __init__(self, share: float, total: int, what: str = "samples"):
        if not 0 <= share < 1:
            raise RectifyError(f"data.max_bad_samples is {share}; give a share in [0, 1).")
        self.share, self.total, self.what = share, total, what
        self.reasons: dict[str, str] = {}

    def add(self, key: str, reason: str) -> None:
        """Count a sample.

        Raises:
            RectifyError: more than the share is bad.
        """
        if key in self.reasons:
            return
        self.reasons[key] = reason
        if len(self.reasons) > self.share * self.total:
            raise RectifyError(
                f"{len(self.reasons)} of {self.total} {self.what} are bad, more than data.max_bad_samples "
                f"{self.share:g} allows; the last is {key}: {reason}. Repair the shards or raise the share."
            )
        if len(self.reasons) <= 10:
            warnings.warn(f"Bad {self.what.removesuffix('s')} {key} skipped: {reason}.", stacklevel=2)
