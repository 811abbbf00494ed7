"""What a config says of the data, against what is there."""

import warnings
from collections.abc import Collection
from typing import Any

from ..errors import RectifyError
from .manifest import Manifest


def check_expected(manifest: Manifest, expected: dict[str, int | None]) -> None:
    """Compare `classes`, `channels` and `size` of a config with the shards; None accepts what they have."""
    size = manifest.height if manifest.height == manifest.width else f"{manifest.height}x{manifest.width}"
    found = {"classes": manifest.classes, "channels": manifest.channels, "size": size}
    for key, wanted in expected.items():
        if wanted is not None and wanted != found[key]:
            raise RectifyError(
                f"data.{key} is {wanted}, but the shards in {manifest.folder} have {found[key]}; "
                f"set data.{key}={found[key]} or choose another data.source."
            )


def check_stream_splits(present: Collection[str], stage: str | None, trainer: Any) -> None:
    """Say at the start which split is not there, not when a score of it is missed after an epoch."""
    if stage == "test" and "test" not in present:
        warnings.warn("data.test_source is not set: this stream has no test split, so nothing is tested.")
    if stage not in ("fit", "validate") or "val" in present:
        return
    monitors = [str(getattr(each, "monitor", "")) for each in getattr(trainer, "callbacks", [])]
    needed = next((key for key in monitors if key.startswith("val/")), None)
    if stage == "validate" or needed:
        why = f"{needed} is monitored" if needed else "validate needs a validation split"
        raise RectifyError(f"data.val_source is not set, but {why}; name the shards to validate on.")
    warnings.warn("data.val_source is not set: this stream has no validation split, so nothing is validated.")


def check_needs_no_index(**settings: object) -> None:
    """Refuse what chooses samples by their label, for streams."""
    for key, value in settings.items():
        if value is not None:
            raise RectifyError(f"data.{key} needs the labels of all samples; streamed shards have no index, build one.")
