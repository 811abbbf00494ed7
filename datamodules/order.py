"""The order of samples: a function of (seed, epoch) alone, permuted before it is split over ranks."""

import numpy as np
import torch

from ..randomness import fold, keyed_generator

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step of SplitMix64's counter (Steele et al. 2014)."""


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection of uint64 whose output looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permutation(count: int, *key: int) -> np.ndarray:
    """Return a permutation of range(count) that is a function of the key."""
    return torch.randperm(count, generator=keyed_generator("order", *key)).numpy()


def share_of_rank(chunk: np.ndarray, start: int, rank: int, world: int) -> np.ndarray:
    """Return the entries of `chunk`, which lie at positions start, start+1, …, whose position mod `world` is `rank`."""
    return chunk[(rank - start) % world :: world]


def padded_to_multiple(values: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat values from the start until their number is a multiple."""
    return np.resize(values, -(-len(values) // multiple) * multiple) if len(values) else values


def view_keys(indices: np.ndarray, *key: int) -> np.ndarray:
    """Return an int64 key per sample, a hash of (key, index): equal on any rank and in any batch."""
    return mix64(indices.astype(np.uint64) * GOLDEN + np.uint64(fold("view", *key))).view(np.int64)
