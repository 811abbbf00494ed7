"""Random numbers by key: the same key gives the same draw on any run, nothing is saved and nothing restored."""

import hashlib
import os

import torch


def fold(*key: int | str) -> int:
    """Hash a key of integers and strings to a seed in [0, 2^63)."""
    text = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` seeded by the key; creating it costs no host sync."""
    return torch.Generator(device).manual_seed(fold(*key))


def global_seed() -> int:
    """The run's seed (`seed_everything`), 0 if none was set."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
