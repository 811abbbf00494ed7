"""Loaders over shards that can only be read from front to back.

Shards are permuted by (seed, epoch) before they are split over processes and workers, a buffer shuffles the samples,
and an epoch is a fixed number of batches: whoever runs dry goes on with another permutation. The order is a function
of (seed, epoch, rank, worker) only; on another number of processes or workers it is another one.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .. import collectives
from ..errors import RectifyError
from ..randomness import keyed_generator
from .bad_samples import BadSamples
from .loader import Batch, BatchSampler, from_workers
from .order import permutation, view_keys
from .tar_stream import UNREADABLE, TarFormat, decode_sample, read_shard

Decoded = tuple[np.ndarray, int, int]
Fault = tuple[str, str]  # what (a key, or `shard …`), why


class _Samples:
    """Decodes what it is given; collects faults instead of raising, because a worker's error loses its type."""

    def __init__(self, form: TarFormat):
        self.form, self.faults, self.fatal = form, list[Fault](), ""

    def raw(self, shard: str) -> Iterator[dict[str, Any]]:
        try:
            yield from read_shard(shard, self.form.allow_pipe)
        except UNREADABLE as error:  # what was readable before has been used
            self.faults.append((f"shard {shard}", f"it is cut short or no tar file ({error.args[:1]})"))

    def decode(self, sample: dict[str, Any]) -> Decoded | None:
        try:
            return decode_sample(sample, self.form)
        except RectifyError as error:
            self.fatal = str(error)
        except ValueError as error:
            self.faults.append((sample["__key__"], str(error)))
        return None

    def take_faults(self) -> list[Fault]:
        faults, self.faults = self.faults, []
        return faults


def _collate(samples: list[Decoded]) -> Batch:
    images, labels, indices = zip(*samples, strict=True)
    return {
        "image": torch.from_numpy(np.stack(images)),
        "label": torch.tensor(labels, dtype=torch.int64),
        "index": torch.tensor(indices, dtype=torch.int64),
    }


class _Stream(IterableDataset):
    """Endless batches of one epoch for one worker of one process."""

    def __init__(self, shards: list[str], form: TarFormat, batch_size: int, buffer: int, key: tuple, place: tuple):
        self.shards, self.form, self.batch_size, self.buffer = shards, form, batch_size, buffer
        self.key, self.rank, self.world = key, *place

    def __iter__(self) -> Iterator[tuple[Batch | None, list[Fault], str]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        me, readers = self.rank * workers + worker, self.world * workers
        samples = _Samples(self.form)
        generator = keyed_generator("buffer", *self.key, me)
        batch: list[Decoded] = []
        found = passes = 0
        while not samples.fatal:
            for sample in self._shuffled(self._one_pass(samples, passes, me, readers), generator):
                decoded = samples.decode(sample)
                if samples.fatal:
                    break
                if decoded is not None:
                    batch.append(decoded)
                    found += 1
                if len(batch) == self.batch_size:
                    yield _collate(batch), samples.take_faults(), ""
                    batch = []
            passes += 1
            if not found and not samples.fatal:
                samples.fatal = "data.source: no usable sample was found in the shards; they need images and labels."
        yield None, samples.take_faults(), samples.fatal

    def _one_pass(self, samples: _Samples, passes: int, me: int, readers: int) -> Iterator[dict[str, Any]]:
        order = permutation(len(self.shards), *self.key, passes)
        if len(order) >= readers:
            for shard in order[me::readers]:
                yield from samples.raw(self.shards[shard])
            return
        number = 0  # fewer shards than readers: all read all, each keeps its own share
        for shard in order:
            for sample in samples.raw(self.shards[shard]):
                if number % readers == me:
                    yield sample
                number += 1

    def _shuffled(self, samples: Iterator[dict[str, Any]], generator: torch.Generator) -> Iterator[dict[str, Any]]:
        held: list[dict[str, Any]] = []
        for sample in samples:
            if len(held) < self.buffer:
                held.append(sample)
                continue
            if not held:
                yield sample
                continue
            place = int(torch.randint(len(held), (), generator=generator))
            held[place], sample = sample, held[place]
            yield sample
        for place in torch.randperm(len(held), generator=generator).tolist():
            yield held[place]


class _Bad:
    """Counts bad samples, and bad shards by the same share of their number."""

    def __init__(self, bad: BadSamples, shards: int, readers: int = 1):
        self.samples = bad
        self.shards = BadSamples(bad.share, shards, "shards", readers, bad.epoch)

    def add(self, faults: list[Fault]) -> None:
        for what, why in faults:
            (self.shards if what.startswith("shard ") else self.samples).add(what.removeprefix("shard "), why)


class StreamTrainingLoader:
    """Shuffled batches of `{image, label, index, view}`, equally many on every process.

    Args:
        samples: of the data set, from which the length of an epoch follows.
        buffer: samples a worker holds to shuffle.
    """

    def __init__(
        self,
        shards: list[str],
        form: TarFormat,
        bad: BadSamples,
        batch_size: int,
        samples: int,
        seed: int = 0,
        workers: int = 0,
        buffer: int = 1000,
    ):
        self.shards, self.form, self.batch_size, self.buffer = shards, form, batch_size, buffer
        self.seed, self.workers = seed, workers
        self.rank, self.world = collectives.rank(), collectives.world_size()
        # with fewer shards than readers everyone reads all of them
        self._bad = _Bad(bad, len(shards), self.world if len(shards) >= self.world * max(workers, 1) else 1)
        self.length = max(1, samples // (batch_size * self.world))
        self.batch_sampler = BatchSampler(self, batch_size)
        self.epoch = self.cycle = self.batches = 0
        self._started = False
        if len(shards) < self.world * max(workers, 1) and collectives.rank() == 0:
            warnings.warn(
                f"{len(shards)} shards for {self.world} processes with {workers} workers: everyone reads every shard; "
                "write smaller shards or use fewer workers."
            )

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        if self._started:
            self._begin(self.epoch, self.cycle + 1)
        self._started = True
        key = (self.seed, self.epoch, self.cycle)
        stream = _Stream(self.shards, self.form, self.batch_size, self.buffer, key, (self.rank, self.world))
        loader: DataLoader = DataLoader(stream, batch_size=None, num_workers=self.workers)
        done = 0
        for batch, faults, fatal in from_workers(loader):
            self._bad.add(faults)
            if fatal:
                raise RectifyError(fatal)
            done += 1
            if done <= self.batches:  # a resume reads again what came before: only so the buffer is the same
                continue
            self.batches = done
            batch["view"] = torch.from_numpy(view_keys(batch["index"].numpy(), *key))
            yield batch
            if done >= self.length:
                return

    def _begin(self, epoch: int, cycle: int) -> None:
        self.epoch, self.cycle, self.batches, self._started = epoch, cycle, 0, False

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its beginning; does nothing inside the epoch at hand."""
        if epoch != self.epoch:
            self._begin(epoch, 0)

    def state_dict(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in ("seed", "epoch", "cycle", "batches", "world", "workers")}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state was taken: exactly on as many processes and workers, else in another order."""
        for key in ("seed", "epoch", "cycle", "batches"):
            setattr(self, key, state[key])
        self.batches = min(self.batches, self.length)
        self._started = self.batches >= self.length
        if (state["world"], state["workers"]) != (self.world, self.workers):
            warnings.warn(
                f"The stream was stopped with {state['world']} processes and {state['workers']} workers and goes on "
                f"with {self.world} and {self.workers}: this epoch may repeat or miss samples."
            )


class StreamEvaluationLoader:
    """Batches of `{image, label, index}` in the shards' order; every good sample once over all processes.

    Every process reads all shards and keeps the samples at positions p with p mod W = rank; it repeats one so that
    all have equally many, and puts a good sample in the place of a bad one, for batches to stay even.
    """

    def __init__(self, shards: list[str], form: TarFormat, bad: BadSamples, batch_size: int, samples: int | None):
        self.shards, self.form, self.batch_size = shards, form, batch_size
        self._bad, self.samples = _Bad(bad, len(shards)), samples
        self.rank, self.world = collectives.rank(), collectives.world_size()

    def __len__(self) -> int:
        if self.samples is None:
            raise TypeError("the number of samples in remote shards is not known")
        return -(-self.samples // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[Batch]:
        samples = _Samples(self.form)
        batch: list[Decoded] = []
        spare: Decoded | None = None
        missing = number = 0
        for shard in self.shards:
            for sample in samples.raw(shard):
                mine = number % self.world == self.rank
                number += 1
                # whoever has none to stand in yet looks at the others' samples too
                decoded = samples.decode(sample) if mine or spare is None else None
                if samples.fatal:
                    raise RectifyError(samples.fatal)
                spare = decoded or spare
                missing += mine and decoded is None
                if mine and decoded is not None:
                    batch.append(decoded)
                while missing and spare is not None:
                    batch.append(spare)
                    missing -= 1
                self._bad.add(samples.take_faults())
                while len(batch) >= self.batch_size:
                    yield _collate(batch[: self.batch_size])
                    batch = batch[self.batch_size :]
            self._bad.add(samples.take_faults())
        if spare is None:
            raise RectifyError("No usable sample was found in the evaluation shards; they need images and labels.")
        if 0 < number % self.world <= self.rank:
            batch.append(spare)
        if batch:
            yield _collate(batch)
