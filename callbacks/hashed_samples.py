"""A fixed share of an evaluation: the samples whose hashes are smallest, whoever holds them."""

import torch
from torch import Tensor

from ..collectives import gather_rows, rank
from ..randomness import fold
from .batches import ImageBatch, sample_ids


class HashedSamples:
    """Holds the `samples` samples with the smallest hashes while a loader runs by; each rank keeps its own.

    The choice is the same in every epoch, for any batch size and any number of processes.

    Args:
        samples: how many, over all ranks.
    """

    def __init__(self, samples: int):
        self.samples = samples
        self._held: dict[int, tuple[int, Tensor, Tensor]] = {}  # id -> (hash, image, label)
        self._spare: ImageBatch | None = None
        self._batch = 1

    def add(self, batch: ImageBatch) -> None:
        """Look at a batch; duplicates of a sample count once."""
        self._batch = max(self._batch, len(batch.label))
        self._spare = ImageBatch(batch.image[:1], batch.label[:1])
        worst = max((order for order, _, _ in self._held.values()), default=0)
        for place, sample in enumerate(sample_ids(batch)):
            order = fold("robustness", sample)
            if sample not in self._held and (len(self._held) < self.samples or order < worst):
                image = batch.image[place].detach().to("cpu", copy=True)
                self._held[sample] = order, image, batch.label[place].detach().to("cpu", copy=True)
        if len(self._held) > self.samples:
            self._held = dict(sorted(self._held.items(), key=lambda item: item[1][0])[: self.samples])

    def chunks(self, device: torch.device) -> list[tuple[ImageBatch, Tensor]]:
        """Agree over all ranks (a collective) and return this rank's samples in batches, each with what counts (n,).

        Every rank gets the same number of batches; what fills a rank up does not count.
        """
        rows = [(order, sample) for sample, (order, _, _) in self._held.items()]
        tables = gather_rows(torch.tensor(rows, dtype=torch.int64).view(-1, 2).to(device))
        owner: dict[tuple[int, int], int] = {}
        for place, table in enumerate(tables):
            for order, sample in table.tolist():
                owner.setdefault((order, sample), place)
        chosen = sorted(owner)[: self.samples]
        sizes = torch.cat(gather_rows(torch.tensor([self._batch], device=device))).tolist()
        batch = max(sizes)
        shares = [sum(owner[row] == place for row in chosen) for place in range(len(tables))]
        mine = [sample for order, sample in chosen if owner[order, sample] == rank()]
        pieces = [mine[start : start + batch] for start in range(0, len(mine), batch)]
        found = [(self._piece(samples, device), torch.ones(len(samples), dtype=torch.bool)) for samples in pieces]
        for _ in range(-(-max(shares, default=0) // batch) - len(found)):
            if self._spare is None:
                break  # a rank without data cannot take part; nothing here can mend that
            spare = ImageBatch(self._spare.image, self._spare.label, torch.tensor([-1], device=device))
            found.append((spare, torch.zeros(1, dtype=torch.bool)))
        return [(images, keep.to(device)) for images, keep in found]

    def _piece(self, samples: list[int], device: torch.device) -> ImageBatch:
        parts = [self._held[sample] for sample in samples]
        image = torch.stack([image for _, image, _ in parts]).to(device)
        label = torch.stack([label for _, _, label in parts]).to(device)
        return ImageBatch(image, label, torch.tensor(samples, device=device))
