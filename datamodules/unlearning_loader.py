"""Training streams of an unlearning run: forget and retain samples of the same shards, in passes, pairs or mixed."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

from .. import collectives
from .loader import BatchSampler, Standing, TrainingLoader

ForgetSchedule = Literal["forget_then_retain", "paired", "mixed", "forget", "retain"]


class _Streams:
    """Two training loaders in one: an epoch is announced to both, and the state is that of both."""

    def __init__(self, forget: TrainingLoader, retain: TrainingLoader):
        self.forget, self.retain = forget, retain
        self.batch_sampler = BatchSampler(self, retain.batch_size)
        self._started = False

    @property
    def epoch(self) -> int:
        return self.retain.epoch

    def _begin(self, epoch: int, cycle: int) -> None:
        for loader in (self.forget, self.retain):
            loader._begin(epoch, cycle)
        self._started = False

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its beginning; does nothing inside the epoch at hand."""
        if epoch != self.epoch:
            self._begin(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in both streams: equal on every rank, whatever the workers have read ahead."""
        return {"forget": self.forget.state_dict(), "retain": self.retain.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, in either stream.

        Raises:
            RectifyError: the state belongs to another request or training split.
        """
        self.forget.load_state_dict(state["forget"])
        self.retain.load_state_dict(state["retain"])
        self._started = self._finished()

    def _finished(self) -> bool:
        raise NotImplementedError

    def standing(self) -> Standing:
        """Where training stands; the share is that of all samples of the epoch."""
        forget, retain = self.forget.standing(), self.retain.standing()
        sizes = len(self.forget.indices), len(self.retain.indices)
        share = (sizes[0] * forget.share + sizes[1] * retain.share) / sum(sizes)
        return Standing(self.epoch, share, forget.left + retain.left, forget.length + retain.length)


class ForgetThenRetain(_Streams):
    """Each epoch is a whole pass over the forget samples, then one over the retained.

    Yields `{"forget": batch, "retain": None}`, then `{"forget": None, "retain": batch}`; batches as a TrainingLoader's.
    """

    def __len__(self) -> int:
        return len(self.forget) + len(self.retain)

    def _finished(self) -> bool:
        return not self.forget.standing().left and not self.retain.standing().left

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._started:
            self._begin(self.epoch, self.retain.cycle + 1)
        self._started = True
        if self.forget.standing().left:  # none after a resume inside the retain pass
            for batch in self.forget:
                yield {"forget": batch, "retain": None}
        for batch in self.retain:
            yield {"forget": None, "retain": batch}


class ForgetWithRetain(_Streams):
    """Each step has a batch of both; the shorter stream begins again, in another order, until the longer has ended.

    Yields `{"forget": batch, "retain": batch}`.
    """

    def __init__(self, forget: TrainingLoader, retain: TrainingLoader):
        super().__init__(forget, retain)
        shorter_first = sorted((forget, retain), key=lambda loader: loader.standing().length)
        self._short, self._long = shorter_first

    def __len__(self) -> int:
        return len(self._long)

    def standing(self) -> Standing:
        """Where the longer stream stands."""
        return self._long.standing()

    def _finished(self) -> bool:
        return not self._long.standing().left

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._started:
            self._begin(self.epoch, self._long.cycle + 1)
        self._started = True
        short = iter(self._short)
        for batch in self._long:
            other = next(short, None)
            if other is None:
                short = iter(self._short)  # its next cycle
                other = next(short)
            forget = other if self._short is self.forget else batch
            yield {"forget": forget, "retain": batch if forget is other else other}


class MixedLoader(TrainingLoader):
    """A TrainingLoader over both sets whose batches have `forget` (B,) bool, true for samples to forget.

    Args:
        forget: (n,) indices to forget.
    """

    def __init__(self, *, forget: np.ndarray, **options: Any):
        super().__init__(**options)
        self._forget = forget

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            batch["forget"] = torch.from_numpy(np.isin(batch["index"].numpy(), self._forget))
            yield batch


class ForgetLoader(TrainingLoader):
    """A TrainingLoader of the forget samples alone; yields `{"forget": batch, "retain": None}`."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            yield {"forget": batch, "retain": None}


TrainingStream = TrainingLoader | ForgetThenRetain | ForgetWithRetain


def unlearning_stream(
    schedule: ForgetSchedule, forget: np.ndarray, retain: np.ndarray, drop_last: bool, **parts: Any
) -> TrainingStream:
    """Return the training stream of a schedule.

    Every forget sample comes in each pass over them (their last batch may be shorter); a forget set smaller than the
    number of processes is repeated.

    Args:
        parts: of the TrainingLoaders, except the indices.
    """
    if schedule == "retain":
        return TrainingLoader(indices=retain, drop_last=drop_last, **parts)
    if schedule == "mixed":
        return MixedLoader(forget=forget, indices=np.union1d(forget, retain), drop_last=drop_last, **parts)
    padded = np.resize(forget, max(len(forget), collectives.world_size()))
    if schedule == "forget":
        return ForgetLoader(indices=padded, drop_last=False, **parts)
    streams = (
        TrainingLoader(indices=padded, drop_last=False, **parts),
        TrainingLoader(indices=retain, drop_last=drop_last, **parts),
    )
    return ForgetThenRetain(*streams) if schedule == "forget_then_retain" else ForgetWithRetain(*streams)
