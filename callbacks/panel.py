"""A fixed panel of samples: the same whatever the batch size, the order of the data and the number of processes."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..collectives import any_rank, gather_rows, rank
from ..errors import RectifyError
from ..randomness import fold
from .batches import ImageBatch, sample_ids


@dataclass
class Panel:
    """The chosen samples on the CPU: `ids` (n), `labels` (n,) int64, `images` (n, C, H, W) as the batches held them."""

    ids: list[int]
    labels: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def spread(self, most: int) -> "Panel":
        """At most `most` samples from everywhere in the panel, which is sorted by class."""
        count = min(most, len(self))
        at = torch.arange(count) * len(self) // max(1, count)
        return Panel([self.ids[place] for place in at.tolist()], self.labels[at], self.images[at])


class PanelChoice:
    """Choose a panel while a loader runs by, holding fewer than twice its samples.

    Classes are ordered by a hash and so are the samples of a class. The panel takes the first sample of each class in
    that order, then the second ones, until it is full. It is shorter only if the classes are: no class gives more than
    its even share, rounded up.

    Args:
        samples: size of the panel.
        classes: at most so many classes; with half of `samples` each class of a full panel has two samples or more.
        who: the callback to name in an error.
    """

    def __init__(self, samples: int, classes: int | None = None, who: str = "SaliencyMaps"):
        self.samples, self.who = samples, who
        self.classes = min(samples, classes or samples)
        self._held: dict[int, dict[int, tuple[int, Tensor]]] = {}  # class -> id -> (hash, image)
        self._shape: tuple[int, ...] | None = None

    def add(self, batch: ImageBatch) -> None:
        """Look at a batch; duplicates of a sample (padding) count once."""
        shape = tuple(batch.image.shape[1:])
        if self._shape not in (None, shape):
            raise RectifyError(
                f"{self.who} needs images of one size, but the validation data hold {self._shape} and {shape}; "
                "crop or resize them in the evaluation transform."
            )
        self._shape = shape
        self._dtype = batch.image.dtype
        for place, (sample, label) in enumerate(zip(sample_ids(batch), batch.label.tolist(), strict=True)):
            if label not in self._held:
                if len(self._held) == self.classes and _class_order(label) > max(map(_class_order, self._held)):
                    continue  # the panel is full of classes that come first
                self._held[label] = {}
            elif sample in self._held[label]:
                continue
            held, order = self._held[label], fold("panel", sample)
            if len(held) < self._share() or order < max(key for key, _ in held.values()):
                held[sample] = order, batch.image[place].detach().to("cpu", copy=True)
                self._prune(label)

    def _share(self) -> int:
        """The most samples one class can give: fewer classes than there are in all only make it larger."""
        return -(-self.samples // min(self.classes, max(1, len(self._held))))

    def _prune(self, label: int) -> None:
        """Drop what a new sample of this class leaves without a place."""
        if len(self._held) > self.classes:
            del self._held[max(self._held, key=_class_order)]
        share = self._share()
        # the first sample of a class may have lessened the share of all
        for each in [label] if len(self._held.get(label, ())) > 1 else list(self._held):
            held = self._held.get(each, {})
            if len(held) > share:
                self._held[each] = dict(sorted(held.items(), key=lambda item: item[1][0])[:share])

    def choose(self, device: torch.device) -> Panel | None:
        """Agree on the panel over all ranks (a collective); None if no rank saw a sample.

        Args:
            device: where the process group exchanges tensors.
        """
        rows = [(label, order, sample) for label, held in self._held.items() for sample, (order, _) in held.items()]
        tables = gather_rows(torch.tensor(rows, dtype=torch.int64).view(-1, 3).to(device))
        owner: dict[tuple[int, int, int], int] = {}
        for place, table in enumerate(tables):
            for row in table.tolist():
                owner.setdefault((row[0], row[1], row[2]), place)
        chosen = choose_rows(list(owner), self.samples, self.classes)
        if not chosen:
            return None
        if any_rank(self._shape is None):  # all raise, or the others would wait for this one
            raise RectifyError(f"{self.who}: a process got no validation batch; give every process at least one.")
        mine = [
            self._held[label][sample][1] for label, order, sample in chosen if owner[label, order, sample] == rank()
        ]
        shape: tuple[int, ...] = self._shape or ()
        stacked = torch.stack(mine) if mine else torch.empty(0, *shape, dtype=self._dtype)
        arrived = [iter(images.cpu()) for images in gather_rows(stacked.to(device))]
        images = torch.stack([next(arrived[owner[row]]) for row in chosen])
        return Panel([sample for _, _, sample in chosen], torch.tensor([label for label, _, _ in chosen]), images)


@cache
def _class_order(label: int) -> int:
    return fold("class", label)


def choose_rows(rows: list[tuple[int, int, int]], samples: int, most: int) -> list[tuple[int, int, int]]:
    """Choose among (label, hash, id) rows of `most` classes as described at `PanelChoice`; return them in order."""
    classes: dict[int, list[tuple[int, int, int]]] = {}
    for row in sorted(rows):
        classes.setdefault(row[0], []).append(row)
    first = sorted(classes, key=_class_order)[:most]
    share = -(-samples // max(1, len(first)))
    ranked = [(place, _class_order(label), row) for label in first for place, row in enumerate(classes[label][:share])]
    return sorted(row for _, _, row in sorted(ranked)[:samples])
