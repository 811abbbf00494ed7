"""Samples of a tar shard, read from front to back; nothing is unpickled and no shell is run unless that is allowed."""

import os
import pickle
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import RectifyError
from ..randomness import fold
from .reader import decode_image

IMAGES = ("png", "jpg", "jpeg", "webp")
PICKLES = ("pyd", "pkl", "pickle", "pth", "pt")
END = 1024
UNREADABLE = (tarfile.TarError, OSError, EOFError, ValueError)


@dataclass(frozen=True)
class TarFormat:
    """What samples must look like, and what their shards may do.

    Attributes:
        shape: (C, H, W).
        allow_pickle: unpickle an entry `.pyd` or `.pkl` holding `{"image": (C, H, W) uint8, "label": int}`.
        allow_pipe: open `pipe:` and cloud URLs, which run a shell command.
    """

    shape: tuple[int, int, int]
    classes: int
    allow_pickle: bool = False
    allow_pipe: bool = False


def expand_shards(pattern: str, allow_pipe: bool = False) -> list[str]:
    """Return the shards of a brace pattern; local ones must be there.

    Raises:
        RectifyError: a local shard is missing or empty, or the pattern would run a command.
    """
    from braceexpand import braceexpand

    shards = list(braceexpand(pattern))
    for shard in shards:
        if is_local(shard):
            path = Path(local_path(shard))
            if not path.is_file():
                raise RectifyError(f"Shard {path} of source {pattern!r} is missing; restore it or mend the pattern.")
            if path.stat().st_size == 0:
                raise RectifyError(f"Shard {path} of data source {pattern!r} is empty; restore it.")
        elif not shard.startswith(("http://", "https://")) and not allow_pipe:
            raise RectifyError(
                f"data source {shard!r} would run a shell command; copy the shards, or set data.allow_pipe=true "
                "if you trust whoever wrote it."
            )
    return shards


def is_local(shard: str) -> bool:
    return shard.startswith("file:") or not re.match(r"pipe:|[a-z0-9]+://", shard)


def local_path(shard: str) -> str:
    return os.path.expanduser(re.sub(r"^file:(//)?", "", shard))


def count_samples(shards: list[str]) -> int:
    """Count the keys in local shards by their headers.

    Raises:
        RectifyError: a shard is cut short or no tar file.
    """
    total = 0
    for shard in shards:
        path = local_path(shard)
        try:
            with open(path, "rb") as file:
                file.seek(-min(END, os.path.getsize(path)), os.SEEK_END)
                _check_end(path, file.read())
            with tarfile.open(path) as tar:
                members = [member for member in tar if member.isreg()]
        except UNREADABLE as error:
            raise RectifyError(f"Shard {path} is cut short or no tar file ({error}); restore it.") from error
        total += len({_split_name(member.name)[0] for member in members} - {""})
    return total


def read_shard(shard: str, allow_pipe: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard as WebDataset groups them: `__key__` and the bytes by extension.

    Raises:
        OSError, EOFError, ValueError, tarfile.TarError: the shard cannot be opened or read on.
    """
    os.environ.setdefault("WDS_SECURE", "1")  # read when webdataset is imported
    from webdataset import tariterators, utils
    from webdataset.gopen import gopen

    if is_local(shard):
        stream: BinaryIO = open(local_path(shard), "rb")  # noqa: SIM115 - closed below, after the last sample
    else:
        secure, utils.enforce_security = utils.enforce_security, not allow_pipe
        try:
            stream = gopen(shard)
        finally:
            utils.enforce_security = secure
    with stream:
        kept = _KeepsEnd(stream)
        files = tariterators.tar_file_expander(iter([{"url": shard, "stream": kept}]))
        yield from tariterators.group_by_keys(files)
        while kept.read(2**20):
            pass
        _check_end(shard, kept.end)


class _KeepsEnd:
    """A stream that remembers its last bytes."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.end = stream, b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.end = (self.end + data)[-END:]
        return data


def _check_end(name: str, end: bytes) -> None:
    """A tar file ends with two blocks of zeros; Python's tarfile takes one cut between two members for whole."""
    if name.endswith(".tar") and end != b"\0" * END:
        raise tarfile.ReadError("unexpected end of data")


def decode_sample(sample: dict[str, Any], form: TarFormat) -> tuple[np.ndarray, int, int]:
    """Return image (C, H, W) uint8, label and index, a 63-bit hash of the key.

    Raises:
        ValueError: the sample is bad (corrupt image, other size, no label, label outside the classes).
        RectifyError: image or label stand in a pickle only, and pickles are not allowed.
    """
    image, label = _image(sample, form), _label(sample)
    if image is None or label is None:
        image, label = _from_pickle(sample, form, image, label)
    if image is None:
        raise ValueError("it has no image")
    if label is None:
        raise ValueError("it has no label")
    if not 0 <= label < form.classes:
        raise ValueError(f"its label {label} is not one of the {form.classes} classes")
    return image, label, fold("sample", sample["__key__"])


def _image(sample: dict[str, Any], form: TarFormat) -> np.ndarray | None:
    if "u8" in sample:
        if len(sample["u8"]) != np.prod(form.shape):
            raise ValueError(f"it holds {len(sample['u8'])} bytes, not {'x'.join(map(str, form.shape))}")
        return np.frombuffer(sample["u8"], np.uint8).reshape(form.shape)
    encoded = next((sample[suffix] for suffix in IMAGES if suffix in sample), None)
    return None if encoded is None else decode_image(encoded, form.shape)


def _label(sample: dict[str, Any]) -> int | None:
    if "cls" not in sample:
        return None
    try:
        return int(sample["cls"])
    except ValueError as error:
        raise ValueError(f"its label is {sample['cls'][:20]!r}, not a number") from error


def _from_pickle(sample: dict[str, Any], form: TarFormat, image: Any, label: Any) -> tuple[Any, Any]:
    suffix = next((suffix for suffix in PICKLES if suffix in sample), None)
    if suffix is None:
        return image, label
    if not form.allow_pickle:
        raise RectifyError(
            f"Sample {sample['__key__']} keeps its {'image' if image is None else 'label'} in a pickle (.{suffix}), "
            "which can run code; convert the shards, or set data.allow_pickle=true if you trust whoever wrote them."
        )
    values = pickle.loads(sample[suffix])
    if not isinstance(values, dict):
        return image, label
    if image is None and "image" in values:
        image = np.asarray(values["image"])
        if image.shape != form.shape or image.dtype != np.uint8:
            raise ValueError(f"its pickled image is {image.dtype} {image.shape}, not uint8 {form.shape}")
    return image, int(values["label"]) if label is None and "label" in values else label


def _split_name(name: str) -> tuple[str, str]:
    folder, _, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem, suffix) if suffix else ("", "")
