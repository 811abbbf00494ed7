"""Running means of scalars, kept on the device and reduced over ranks only when they are read."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..collectives import rank, sum_over_ranks


class TermMeans:
    """Sample-weighted means of named scalars.

    `self.log(..., sync_dist=True)` would cost a collective and a few hundred microseconds per value and step; here a
    step costs three small kernels, and reading costs one collective. Terms may differ between steps (alternation), as
    long as every rank sees the same names in the same order.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def update(self, terms: dict[str, Tensor | float], samples: int, device: torch.device) -> None:
        """Add one batch of `samples` samples whose means are `terms`."""
        names = tuple(terms)
        values = [
            value.detach() if isinstance(value, Tensor) else torch.full((), value, device=device)
            for value in terms.values()
        ]
        stacked = torch.stack([value.to(torch.float32).reshape(()) for value in values])
        if names in self._sums:
            self._sums[names].add_(stacked, alpha=samples)
            self._counts[names] += samples
        else:
            self._sums[names] = stacked * samples
            self._counts[names] = samples

    def state_dict(self) -> list[list]:
        """Return the sums over all ranks as plain values. Every rank must call this."""
        return [[list(names), sums.tolist(), float(count)] for names, sums, count in self._reduced()]

    def load_state_dict(self, state: list[list], device: torch.device) -> None:
        """Go on from saved sums, which are those of all ranks: rank 0 keeps them and the others keep zeros.

        Every rank needs the names, in their order, because reading costs one collective for each set of names.
        """
        mine = 1 if rank() == 0 else 0
        for names, sums, count in state:
            self._sums[tuple(names)] = torch.tensor(sums, device=device) * mine
            self._counts[tuple(names)] = int(count) * mine

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all samples of all ranks and start anew. Every rank must call this."""
        totals: dict[str, list[Tensor]] = {}
        for names, sums, count in self._reduced():
            for name, value in zip(names, sums, strict=True):
                total = totals.setdefault(name, [torch.zeros_like(value), torch.zeros_like(value)])
                total[0] += value
                total[1] += count
        self._sums.clear()
        self._counts.clear()
        return {name: value / count for name, (value, count) in totals.items()}

    def _reduced(self) -> Iterator[tuple[tuple[str, ...], Tensor, float | Tensor]]:
        """Names, sums and sample count over all ranks; one collective for each set of names."""
        for names, sums in self._sums.items():
            count = torch.full((1,), float(self._counts[names]), device=sums.device)
            reduced = sum_over_ranks(torch.cat((sums, count)))
            yield names, reduced[:-1], reduced[-1]
