"""The largest k of many scores without sorting or gathering them: histograms of the bits of a float.

Non-negative floats are ordered as the integers their bits spell. One pass counts the upper 16 bits, two more the next
and the last 8 bits inside the bins where a threshold lies. Any number of thresholds share the passes, scores that are
split over ranks only share the counts, and memory beside the scores is that of a chunk.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..collectives import gather_rows, rank, sum_over_ranks
from ..errors import RectifyError

_CHUNK = 1 << 17
_BINS = 1 << 15  # the sign bit is 0
_INFINITE = 0x7F80  # upper half of the bits of infinity; NaN lies above


class Threshold(NamedTuple):
    """Which scores are kept: those above the float of `bits`, and the first `ties` of those equal to it.

    Attributes:
        every: all that are equal are kept, so that the order need not be looked at.
    """

    bits: int
    ties: int
    every: bool


def radix_thresholds(scores: Sequence[Tensor], kept: Sequence[int], *, sharded: bool = False) -> list[Threshold]:
    """Return the threshold for each number of kept scores, all from the same three passes.

    Args:
        scores: fp32 tensors without negative values, in traversal order.
        kept: how many of all scores each threshold keeps, between 1 and their number.
        sharded: the tensors are this rank's part of the scores; every rank must call this.

    Raises:
        RectifyError: a score is infinite or NaN.
    """
    device = scores[0].device
    upper = torch.zeros(_BINS, dtype=torch.int64, device=device)
    for bits in _chunks(scores):
        upper += torch.bincount(bits >> 16, minlength=_BINS)
    if sharded:
        upper = sum_over_ranks(upper)
    upper = upper.cpu()
    if upper[_INFINITE:].any():
        raise RectifyError("weight saliency: a score is not finite; the forget loss overflows on these weights.")
    prefixes, left = zip(*(_descend(upper, k) for k in kept), strict=True)
    hit = torch.zeros(_BINS, dtype=torch.bool)
    hit[list(prefixes)] = True
    for shift in (8, 0):
        chosen = torch.tensor(sorted(set(prefixes)), dtype=torch.int32, device=device)
        counts = torch.zeros(len(chosen) * 256, dtype=torch.int64, device=device)
        for bits in _inside(scores, hit):
            place = torch.searchsorted(chosen, bits >> (shift + 8), out_int32=True).clamp_(max=len(chosen) - 1)
            if shift == 0:  # the bin of the first pass may hold more than the chosen prefixes
                within = chosen[place] == bits >> 8
                place, bits = place[within], bits[within]
            counts += torch.bincount((place << 8) + ((bits >> shift) & 0xFF), minlength=len(counts))
        if sharded:
            counts = sum_over_ranks(counts)
        tables = dict(zip(chosen.tolist(), counts.cpu().view(-1, 256), strict=True))
        found = [_descend(tables[prefix], k) for prefix, k in zip(prefixes, left, strict=True)]
        sizes = [int(tables[prefix][low]) for prefix, (low, _) in zip(prefixes, found, strict=True)]
        prefixes = tuple((prefix << 8) + low for prefix, (low, _) in zip(prefixes, found, strict=True))
        left = tuple(ties for _, ties in found)
    return [Threshold(bits, ties, ties == size) for bits, ties, size in zip(prefixes, left, sizes, strict=True)]


def packed_selection(scores: Sequence[Tensor], threshold: Threshold) -> Iterator[Tensor]:
    """Yield for each tensor which entries are kept, packed as uint8 on the CPU; ties are kept in traversal order."""
    left = threshold.ties
    for score in scores:
        packed = []
        for bits in _bits(score).split(_CHUNK):  # chunks are whole bytes, and stay in the cache
            keep = _compare(bits, threshold.bits, strictly=not threshold.every)
            if left and not threshold.every:
                equal = (bits == threshold.bits).nonzero().flatten()[:left]
                keep[equal] = True
                left -= len(equal)
            packed.append(np.packbits(keep.cpu().numpy()))
        yield torch.from_numpy(np.concatenate(packed))


def sharded_selection(shards: Sequence[Tensor], kept: int) -> list[Tensor]:
    """Return which entries of this rank's flat shards are among the `kept` largest over all ranks.

    The result is that of the whole tensors: within a tensor the shards follow each other in rank order, and ties are
    kept in that order. Ranks exchange three histograms and one count per tensor; every rank must call this.

    Args:
        shards: this rank's part of each tensor, flat and possibly empty, the same tensors in the same order everywhere.
        kept: how many entries are kept over all ranks.
    """
    (threshold,) = radix_thresholds(shards, [kept], sharded=True)
    if threshold.every:
        return [_compare(_bits(shard), threshold.bits, strictly=False) for shard in shards]
    equal = [(_bits(shard) == threshold.bits).nonzero().flatten() for shard in shards]
    own = torch.tensor([len(places) for places in equal], device=shards[0].device)
    counts = torch.stack(gather_rows(own)).T.flatten().cpu()  # (tensor, rank) in traversal order
    before = counts.cumsum(0) - counts  # the exclusive scan
    ranks = len(counts) // len(shards)
    chosen = []
    for place, (shard, ties) in enumerate(zip(shards, equal, strict=True)):
        keep = _bits(shard) > threshold.bits
        share = max(0, threshold.ties - int(before[place * ranks + rank()]))
        keep[ties[:share]] = True
        chosen.append(keep)
    return chosen


def _bits(score: Tensor) -> Tensor:
    return score.detach().reshape(-1).view(torch.int32)


def _chunks(scores: Sequence[Tensor]) -> Iterator[Tensor]:
    for score in scores:
        yield from _bits(score).split(_CHUNK)


def _inside(scores: Sequence[Tensor], hit: Tensor) -> Iterator[Tensor]:
    """Yield the bits of the scores whose upper half is hit."""
    find = _find_on_device if scores[0].is_cuda else _find_on_host
    hit = hit.to(scores[0].device)
    for bits in _chunks(scores):
        yield find(bits, hit)


def _find_on_device(bits: Tensor, hit: Tensor) -> Tensor:
    return bits[hit.index_select(0, bits >> 16)]


def _find_on_host(bits: Tensor, hit: Tensor) -> Tensor:
    array = bits.numpy()  # five times as fast as torch at this
    return torch.from_numpy(array[np.flatnonzero(np.take(hit.numpy(), array >> 16))])


def _compare(bits: Tensor, threshold: int, strictly: bool) -> Tensor:
    if bits.is_cuda:
        return bits > threshold if strictly else bits >= threshold
    array = bits.numpy()  # several times faster than torch's comparison on a CPU
    return torch.from_numpy(array > threshold if strictly else array >= threshold)


def _descend(counts: Tensor, kept: int) -> tuple[int, int]:
    """The bin that holds the kept-th largest, and how many of that bin are kept."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, kept))
    above = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, kept - above
