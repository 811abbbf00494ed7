"""Loaders over indexed shards that own their order, have a length, and can be stopped and resumed at any batch."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .. import collectives
from ..errors import RectifyError
from .bad_samples import BadSamples
from .order import padded_to_multiple, permutation, share_of_rank, view_keys
from .reader import Faults

Batch = dict[str, Tensor]


class Reader(Protocol):
    """What a loader reads from: images (n, C, H, W) uint8 by index, and the faults met."""

    def images(self, indices: np.ndarray) -> tuple[Tensor, Faults]: ...


class _Fetch(Dataset):
    """A map-style data set whose items are whole batches, so that a worker reads a batch in one gather."""

    def __init__(self, reader: Reader, labels: np.ndarray):
        self.reader, self.labels = reader, labels

    def __getitem__(self, indices: np.ndarray) -> tuple[Batch, Faults]:
        images, faults = self.reader.images(indices)
        batch = {
            "image": images,
            "label": torch.from_numpy(self.labels[indices]),
            "index": torch.from_numpy(indices.astype(np.int64)),
        }
        return batch, faults


def _stand_in(batch: Batch, bad: list[int], spare: Batch | None) -> Batch:
    """Put a good sample, of the batch or else of one before, in the place of bad ones.

    So batches stay even over the ranks, and evaluation counts an index once anyway.
    """
    good = [position for position in range(len(batch["index"])) if position not in bad][:1]
    giver = {key: value[good] for key, value in batch.items()} if good else spare
    if giver is None:
        raise RectifyError("Not one sample of the first batch can be read; restore the shards or build them again.")
    batch = {key: value.clone() for key, value in batch.items()}
    for key, value in giver.items():
        batch[key][bad] = value
    return batch


def from_workers(loader: DataLoader) -> Iterator[Any]:
    """Yield what the worker processes read.

    Raises:
        RectifyError: one of them was killed.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or ("exited" not in str(error) and "killed" not in str(error)):
            raise
        reason = str(error).splitlines()[0].rstrip(". ")
        raise RectifyError(f"A reader process died ({reason}); use fewer data.workers if memory ran out.") from error


class _Loader:
    """Hands out batches of given indices, in this process or from workers, and counts bad samples."""

    def __init__(self, reader: Reader, labels: np.ndarray, keys: np.ndarray, bad: BadSamples, workers: int = 0):
        self._fetch, self._keys, self._bad, self.workers = _Fetch(reader, labels), keys, bad, workers

    def _batches(self, chunks: list[np.ndarray]) -> Iterator[Batch]:
        results: Any = map(self._fetch.__getitem__, chunks)
        if self.workers:
            results = from_workers(DataLoader(self._fetch, sampler=chunks, batch_size=None, num_workers=self.workers))
        spare = None
        for batch, faults in results:
            if faults:
                for position, reason in faults:
                    self._bad.add(str(self._keys[batch["index"][position]]), reason)
                batch = _stand_in(batch, [position for position, _ in faults], spare)
            elif spare is None:
                spare = {key: value[:1].clone() for key, value in batch.items()}
            yield batch


class _Sampler:
    """What Lightning looks for to announce an epoch."""

    def __init__(self, loader: Any):
        self.set_epoch = loader.set_epoch


class BatchSampler:
    """What DeepSpeed looks for to learn the batch size."""

    def __init__(self, loader: Any, batch_size: int):
        self.sampler, self.batch_size = _Sampler(loader), batch_size


class Standing(NamedTuple):
    """Where a training loader stands.

    Attributes:
        epoch: the epoch at hand.
        share: of its samples handed out.
        left: its batches that remain.
        length: batches of a whole epoch with this world and batch size.
    """

    epoch: int
    share: float
    left: int
    length: int


class TrainingLoader(_Loader):
    """Shuffled, even batches of `{image, label, index, view}`.

    The order of an epoch is a permutation keyed by (seed, epoch); the sample at position p of it goes to rank p mod W.
    A step of W ranks takes the next W·B positions. The state is the position, which no rank and no world size enters,
    so an interrupted epoch goes on without losing or repeating a sample, also on another number of processes. What is
    left of an epoch when less than a step remains is dropped, unless `drop_last` is off: then the last batch is
    shorter and up to W-1 samples come twice. A set smaller than one step is one short batch.

    `set_epoch` starts an epoch (Lightning calls it); iterating again without it starts another cycle of the same
    epoch with an order of its own. `view` (B,) int64 is a hash of (seed, epoch, cycle, index) for the augmentation.

    Args:
        indices: (N,) the samples to train on.
        batch_size: samples per step and process.
        on_resize: called when a state comes from another world or batch size; this epoch then has a length of its own.
    """

    def __init__(
        self,
        reader: Reader,
        indices: np.ndarray,
        labels: np.ndarray,
        keys: np.ndarray,
        bad: BadSamples,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        drop_last: bool = True,
        on_resize: Callable[[], None] | None = None,
    ):
        super().__init__(reader, labels, keys, bad, workers)
        self.rank, self.world = collectives.rank(), collectives.world_size()
        if len(indices) < self.world:
            raise RectifyError(f"The training split has {len(indices)} samples for {self.world} processes; use fewer.")
        self.indices, self.batch_size, self.seed, self.drop_last = indices, batch_size, seed, drop_last
        self.batch_sampler = BatchSampler(self, batch_size)
        self.epoch = self.cycle = self.position = self.batches = 0
        self._on_resize = on_resize
        self._started = False

    def __len__(self) -> int:
        """Batches of the epoch at hand; after a resume on another world size those before and after added up."""
        return self.batches + len(self._steps(self.position))

    def standing(self) -> Standing:
        """Where the loader stands in the data."""
        left, length = len(self._steps(self.position)), len(self._steps(0))
        return Standing(self.epoch, self.position / len(self.indices) if left else 1.0, left, length)

    def _steps(self, position: int) -> list[tuple[int, int]]:
        """The (start, end) positions of the steps that remain from a position on."""
        count, step = len(self.indices), self.batch_size * self.world
        if count < step:
            step = count // self.world * self.world  # the whole set is one short batch
        last = count - step if self.drop_last else count - 1
        return [(start, min(start + step, count)) for start in range(position, last + 1, step)]

    def __iter__(self) -> Iterator[Batch]:
        # a generator: nothing happens before the first batch is asked for, because Lightning opens iterators it
        # throws away, and announces the epoch after it has opened the one it uses
        if self._started:
            self._begin(self.epoch, self.cycle + 1)
        self._started = True
        key = (self.seed, self.epoch, self.cycle)
        order = self._order(*key)
        steps = self._steps(self.position)
        chunks = []
        for start, end in steps:
            chunk = order[start:end]
            if len(chunk) % self.world:
                chunk = np.concatenate([chunk, order[: -len(chunk) % self.world]])
            chunks.append(self._share(chunk, start))
        for (_, end), batch in zip(steps, self._batches(chunks), strict=True):
            self.position, self.batches = end, self.batches + 1  # before the yield: a state taken now skips this batch
            batch["view"] = torch.from_numpy(view_keys(batch["index"].numpy(), *key))
            yield batch

    def _order(self, *key: int) -> np.ndarray:
        """The indices in the order of an epoch."""
        return self.indices[permutation(len(self.indices), *key)]

    def _share(self, chunk: np.ndarray, start: int) -> np.ndarray:
        """What this rank takes of the positions of a step."""
        return share_of_rank(chunk, start, self.rank, self.world)

    def _begin(self, epoch: int, cycle: int) -> None:
        self.epoch, self.cycle, self.position, self.batches, self._started = epoch, cycle, 0, 0, False

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its beginning; does nothing inside the epoch at hand."""
        if epoch != self.epoch:
            self._begin(epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the data: equal on every rank, whatever the workers have read ahead."""
        keys = ("seed", "epoch", "cycle", "position", "batches", "world", "batch_size")
        return {**{key: getattr(self, key) for key in keys}, "size": len(self.indices)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state was taken; the seed of the state is kept, or samples would repeat.

        Raises:
            RectifyError: the state belongs to a training split of another size.
        """
        if state["size"] != len(self.indices):
            raise RectifyError(
                f"The checkpoint was trained on {state['size']} samples, data.source has {len(self.indices)}; "
                "resume with the same data, or start from its weights with --init_from."
            )
        for key in ("seed", "epoch", "cycle", "position", "batches"):
            setattr(self, key, state[key])
        if self._on_resize and (state["world"], state["batch_size"]) != (self.world, self.batch_size):
            self._on_resize()
        self._started = not self._steps(self.position)  # a finished epoch is not gone on with


class EvaluationLoader(_Loader):
    """Batches of `{image, label, index}` in fixed order; every sample once over all ranks.

    Position p goes to rank p mod W. Ranks have equally many batches of equal size: up to W-1 samples are repeated
    from the start, and whoever counts leaves out an index it has seen (`metrics.Deduplicator`).
    """

    def __init__(
        self,
        reader: Reader,
        indices: np.ndarray,
        labels: np.ndarray,
        keys: np.ndarray,
        bad: BadSamples,
        batch_size: int,
        workers: int = 0,
    ):
        super().__init__(reader, labels, keys, bad, workers)
        world = collectives.world_size()
        own = share_of_rank(padded_to_multiple(indices, world), 0, collectives.rank(), world)
        self._chunks = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches(self._chunks)
