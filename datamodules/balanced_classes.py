"""Batches of P classes with K samples each, for losses over pairs."""

from collections import deque

import numpy as np

from ..errors import RectifyError
from .order import permutation


class BalancedClasses:
    """P×K sampling: a batch holds P different classes and K samples of each.

    Classes come in rounds, each class once a round in an order of its own, so all are met equally often however many
    samples they have. A class hands out its samples without repeating one until fewer than K are left, then shuffles
    again; a class smaller than K repeats them within a group. An epoch has as many batches as the samples fill. The
    batches of an epoch are a function of (seed, epoch); batch b goes to rank b mod W.

    Args:
        samples_per_class: K, at least 2.
        classes_per_batch: P, at least 2; by default what `data.batch_size` leaves room for.
    """

    def __init__(self, samples_per_class: int = 4, classes_per_batch: int | None = None):
        if samples_per_class < 2:
            raise RectifyError(
                f"BalancedClasses: samples_per_class is {samples_per_class}; a positive pair needs at least 2."
            )
        if classes_per_batch is not None and classes_per_batch < 2:
            raise RectifyError(
                f"BalancedClasses: classes_per_batch is {classes_per_batch}; a negative pair needs at least 2."
            )
        self.samples_per_class, self.classes_per_batch = samples_per_class, classes_per_batch

    def classes(self, batch_size: int) -> int:
        """Return P for a batch size.

        Raises:
            RectifyError: the batch size is not P·K.
        """
        classes = self.classes_per_batch or batch_size // self.samples_per_class
        if classes * self.samples_per_class != batch_size or classes < 2:
            wanted = self.classes_per_batch or max(2, classes)
            raise RectifyError(
                f"data.batch_size is {batch_size}, but BalancedClasses makes batches of {wanted} classes with "
                f"{self.samples_per_class} samples; set data.batch_size to {wanted * self.samples_per_class}."
            )
        return classes

    def order(self, labels: np.ndarray, batch_size: int, *key: int) -> np.ndarray:
        """Return (n·B,) positions in `labels` (N,), batch after batch, for the n = N // B batches of one epoch.

        Raises:
            RectifyError: there are fewer classes than a batch needs.
        """
        wanted, count = self.classes(batch_size), len(labels) // batch_size
        found, inverse = np.unique(labels, return_inverse=True)
        if len(found) < wanted:
            raise RectifyError(
                f"BalancedClasses: a batch of {batch_size} needs {wanted} classes, the training split has "
                f"{len(found)}; raise samples_per_class or lower data.batch_size."
            )
        members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
        groups = self._groups(_rounds(len(found), wanted, count, key), members, key)
        return np.concatenate(groups) if groups else np.zeros(0, np.int64)

    def _groups(self, classes: list[int], members: list[np.ndarray], key: tuple[int, ...]) -> list[np.ndarray]:
        """Hand out K members of each class of the list."""
        size = self.samples_per_class
        queue: dict[int, np.ndarray] = {}
        turn: dict[int, int] = {}
        groups = []
        for label in classes:
            if len(queue.get(label, ())) < size:
                turn[label] = turn.get(label, -1) + 1
                own = members[label]
                queue[label] = own[permutation(len(own), *key, label, turn[label])]
                if len(own) < size:
                    queue[label] = np.resize(queue[label], size)
            groups.append(queue[label][:size])
            queue[label] = queue[label][size:]
        return groups


def _rounds(classes: int, per_batch: int, batches: int, key: tuple[int, ...]) -> list[int]:
    """Return per_batch·batches class numbers, round after round, with no class twice in a batch."""
    order: list[int] = []
    waiting: deque[int] = deque()
    number = 0
    for _ in range(batches):
        batch: dict[int, None] = {}  # an ordered set
        twice: list[int] = []
        while len(batch) < per_batch:
            if not waiting:
                waiting.extend(permutation(classes, *key, -1, number).tolist())
                number += 1
            label = waiting.popleft()
            if label in batch:
                twice.append(label)
            else:
                batch[label] = None
        waiting.extendleft(reversed(twice))
        order += batch
    return order
