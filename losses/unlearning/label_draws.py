"""Random labels for samples to forget: fresh in every batch, or one per sample and epoch."""

import torch
from torch import Tensor

from ...randomness import fold
from ..objective import Context

_GOLDEN = 0x9E3779B97F4A7C15


def batch_labels(label: Tensor, classes: int, exclude_true: bool, context: Context) -> Tensor:
    """Return (B,) labels drawn by this batch's generator, uniform over all classes or over all but the true one."""
    generator = context.generator("labels", label.device)
    high = classes - 1 if exclude_true else classes
    return _placed(torch.randint(high, label.shape, generator=generator, device=label.device), label, classes, high)


def epoch_labels(label: Tensor, index: Tensor, classes: int, exclude_true: bool, context: Context) -> Tensor:
    """Return (B,) labels that are a function of (seed, epoch, sample): the same on any rank and in any order."""
    high = classes - 1 if exclude_true else classes
    word = splitmix64(index, fold(context.key[0], context.key[2], "labels"))
    # 53 bits: the remainder favours no class by more than 2^-53 · classes
    return _placed(_shift(word, 11) % high, label, classes, high)


def _placed(draw: Tensor, label: Tensor, classes: int, high: int) -> Tensor:
    return (label + 1 + draw) % classes if high < classes else draw


def splitmix64(position: Tensor, seed: int) -> Tensor:
    """Return the 64-bit words of the SplitMix64 stream `seed` at int64 positions (Steele et al. 2014).

    The first word stands at position 0. Counter-based: no state, so any order and any split give the same words.
    """
    x = (position + 1) * _signed(_GOLDEN) + _signed(seed)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(word: Tensor, bits: int) -> Tensor:
    """Shift right with zeros; torch's own shift repeats the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word
