"""The two sides of a request to forget, in a data module."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RectifyError
from ..files import sha256
from .batch_transfer import BatchTransfer
from .loader import EvaluationLoader
from .requests import ForgetRequest, read_request
from .unlearning_loader import ForgetSchedule, TrainingStream, unlearning_stream


class ForgetRetain(BatchTransfer):
    """What a data module with a forget request offers: both sets, loaders to evaluate them, the training stream."""

    forget: str | list[str] | None
    schedule: ForgetSchedule | None
    request: ForgetRequest | None = None
    forgotten_before: np.ndarray | None = None
    _forgotten_in = ""
    index: Any
    ids: dict[str, np.ndarray]
    eval_batch_size: int
    drop_last: bool

    def _parts(self, split: str) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def manifest_path(self) -> Path | None:
        raise NotImplementedError

    def leave_out(self, forgotten: np.ndarray, manifest_sha256: str) -> None:
        """Take samples that an earlier request made forgotten out of the training split; call it before `setup`.

        Without this a second unlearning would train on them as retained samples.

        Args:
            forgotten: (m,) indices. manifest_sha256: of the manifest they belong to; `setup` refuses another.
        """
        self.forgotten_before, self._forgotten_in = np.unique(forgotten), manifest_sha256

    def _leave_out_forgotten(self) -> None:
        if self.forgotten_before is None:
            return
        assert self.manifest_path is not None
        if sha256(self.manifest_path) != self._forgotten_in:
            raise RectifyError(
                f"data.source: the model was made to forget samples of other data than {self.manifest_path}; set it to "
                "those, so that they are not learnt again."
            )
        self.ids["train"] = np.setdiff1d(self.ids["train"], self.forgotten_before)

    def _setup_forgetting(self, class_names: list[str], seed: int) -> None:
        module = getattr(self.trainer, "lightning_module", None)
        objective = getattr(module, "objective", None)
        needs_both = getattr(objective, "needs_retain", False)
        if self.forget is None:
            if needs_both:
                raise RectifyError(
                    f"{type(objective).__name__} unlearns, but data.forget is not set; name what to forget, such as "
                    "class:3 or requests.csv."
                )
            return
        self._leave_out_forgotten()
        self.request = read_request(self.forget, self.index, self.ids["train"], class_names, seed)
        self._choose_schedule(objective, needs_both, unlearns=getattr(module, "unlearns", False))

    def _choose_schedule(self, objective: Any, needs_both: bool, unlearns: bool) -> None:
        if objective is not None and not needs_both and not unlearns and self.schedule != "retain":
            raise RectifyError(
                f"data.forget is set, but {type(objective).__name__} does not unlearn; use the command unlearn, "
                "or set data.schedule to retain to train without those samples."
            )
        accepted = getattr(objective, "schedules", ()) if needs_both else ()
        if self.schedule is None and accepted:
            self.schedule = accepted[0]
        if accepted and self.schedule not in accepted:
            raise RectifyError(
                f"data.schedule is {self.schedule}, which {type(objective).__name__} cannot train on; "
                f"choose {' or '.join(accepted)}."
            )

    def _split_train(self, forgotten: bool) -> np.ndarray:
        if self.request is None:
            raise RectifyError("data.forget is not set; name what to forget, such as class:3 or requests.csv.")
        train = self.ids["train"]
        return train[np.isin(train, self.request.index, assume_unique=True) == forgotten]

    @property
    def forget_index(self) -> np.ndarray:
        """(n,) sorted indices of the training samples to forget."""
        return self._split_train(True)

    @property
    def retain_index(self) -> np.ndarray:
        """(N - n,) sorted indices of the other training samples."""
        return self._split_train(False)

    @property
    def left_out_index(self) -> np.ndarray:
        """Sorted indices that no retained model may see: those to forget, and those forgotten before."""
        earlier = np.empty(0, np.int64) if self.forgotten_before is None else self.forgotten_before
        return np.union1d(self.forget_index, earlier)

    def forget_dataloader(self) -> EvaluationLoader:
        """Return the forget samples in fixed order, not augmented; padded, so count each `index` once."""
        return self._evaluate_train(True)

    def retain_dataloader(self) -> EvaluationLoader:
        """Return the retained training samples in fixed order, not augmented; padded, so count each `index` once."""
        return self._evaluate_train(False)

    def _evaluate_train(self, forgotten: bool) -> EvaluationLoader:
        self._split_train(forgotten)  # before a reader is opened: is there a request?
        parts = self._parts("train")
        return EvaluationLoader(**{**parts, "indices": self._split_train(forgotten)}, batch_size=self.eval_batch_size)

    def _unlearning_stream(self, **more: Any) -> TrainingStream:
        parts = self._parts("train")
        del parts["indices"]
        schedule = self.schedule or "forget_then_retain"
        return unlearning_stream(schedule, self.forget_index, self.retain_index, self.drop_last, **parts, **more)
