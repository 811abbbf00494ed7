"""The order of samples: a function of (seed, epoch) alone, permuted before it is split over ranks."""

import numpy as np
import torch

from ..randomness import fold, keyed_generator

_MASK = (1 << 64) - 1


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
    x = indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(fold("view", *key))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of SplitMix64 (Steele et al. 2014)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)
