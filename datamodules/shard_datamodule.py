"""The data module: shards in, batches of images in [0, 1] out."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from .. import collectives
from ..errors import RectifyError
from ..randomness import global_seed
from .augmentation import Augmentation
from .bad_samples import BadSamples, usable_ids
from .balanced_classes import BalancedClasses
from .balanced_loader import BalancedLoader
from .build import build_shards
from .config_checks import check_expected, check_needs_no_index, check_stream_splits
from .forget_retain import ForgetRetain
from .imbalance import Imbalance
from .known import check_built_from, is_stream, resolve
from .label_noise import LabelNoise
from .loader import EvaluationLoader, Standing, TrainingLoader
from .manifest import CALIBRATION, Manifest, read_manifest, verify_shards
from .reader import MemoryReader, ShardReader
from .stream_loader import StreamEvaluationLoader, StreamTrainingLoader
from .tar_stream import TarFormat, count_samples, expand_shards, is_local
from .unlearning_loader import ForgetSchedule, TrainingStream

AUTO_CACHE_BYTES = 2**30


class ShardDataModule(ForgetRetain):
    """Classification data in shards.

    A batch is `{"image": (B, C, H, W) float in [0, 1], "label": (B,) int64, "index": (B,) int64}`.

    Args:
        source: a known name (`digits`, `fashion_mnist`, `cifar10`, `glyphs`, `two_gaussians`), a manifest or its
            folder, or a brace pattern of shards to stream (`data/train-{000000..000009}.tar`).
        batch_size: samples per step and process.
        eval_batch_size: the same in evaluation; `batch_size` by default.
        classes, channels, size: what the data must have; None accepts what they have.
        mean, std: per-channel statistics, stated for backbones to interpolate (`${data.mean}`).
        augment: augmentations of training images, in order, on the device.
        workers: reader processes; 0 reads in the training process, which is enough for raw shards.
        cache: `memory` holds the images of each split as uint8, `none` reads them each time, `auto` holds up to 1 GiB.
        build: options of `build_shards` for a source that is built on first use (`source`, `root`, `format`, …).
        sampler: how training batches are drawn; by default each sample once an epoch.
        label_noise: gives a share of each class another label, after split and imbalance (`LabelNoise`).
        imbalance: makes the training split imbalanced by true labels (`StepImbalance`, `LongTail`); others stay whole.
        forget: a request to forget, or several: `class:3,5`, `fraction:0.1`, `stratified:0.1`, `index:FILE`, a file of
            keys (`read_request`). Training batches are then those of `schedule`.
        forget_seed: draws the shares of `forget`.
        schedule: order of forget and retain samples; by default what the objective accepts first. `retain` gives the
            plain batches of the retained samples, to train again without the others.
        drop_last: leave out the last, short batch of an epoch; the last batch of forget samples always comes.
        max_bad_samples: share of samples (in streams also of shards) that may be unreadable before the run stops.
        val_source, test_source: brace patterns of the other splits, for streams.
        epoch_samples: samples of an epoch, for streams from other machines; local shards are counted.
        shuffle_buffer: samples a stream's reader holds to shuffle.
        allow_pickle: unpickle entries of streamed shards; they can run any code.
        allow_pipe: open `pipe:` and cloud URLs, which run a shell command.
        verify: compare the SHA-256 of all shards with the manifest before anything else; this reads them all once.
    """

    def __init__(
        self,
        source: str,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        classes: int | None = None,
        channels: int | None = None,
        size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        augment: list[Augmentation] | None = None,
        workers: int = 0,
        cache: Literal["auto", "memory", "none"] = "auto",
        build: dict[str, Any] | None = None,
        sampler: BalancedClasses | None = None,
        imbalance: Imbalance | None = None,
        label_noise: LabelNoise | None = None,
        forget: str | list[str] | None = None,
        forget_seed: int = 0,
        schedule: ForgetSchedule | None = None,
        drop_last: bool = True,
        max_bad_samples: float = 0.01,
        val_source: str | None = None,
        test_source: str | None = None,
        epoch_samples: int | None = None,
        shuffle_buffer: int = 1000,
        allow_pickle: bool = False,
        allow_pipe: bool = False,
        verify: bool = False,
    ):
        super().__init__()
        for key, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise RectifyError(f"data.{key} is {value}; give at least 1.")
        if not 0 <= max_bad_samples < 1:
            raise RectifyError(f"data.max_bad_samples is {max_bad_samples}; give a share in [0, 1).")
        self.source, self.batch_size, self.eval_batch_size = source, batch_size, eval_batch_size or batch_size
        self.expected = {"classes": classes, "channels": channels, "size": size}
        self.mean, self.std, self.augment = mean, std, list(augment or [])
        self.workers, self.cache, self.build, self.drop_last = workers, cache, build, drop_last
        self.max_bad_samples, self.sampler = max_bad_samples, sampler
        if sampler is not None:
            sampler.classes(batch_size)
        if is_stream(source):
            check_needs_no_index(sampler=sampler, imbalance=imbalance, label_noise=label_noise, forget=forget)
        if sampler is not None and forget is not None and schedule != "retain":
            raise RectifyError("data.sampler draws no forget batches; leave it out, or set data.schedule to retain.")
        self.imbalance, self.forget, self.forget_seed, self.schedule = imbalance, forget, forget_seed, schedule
        self.label_noise = label_noise
        self.patterns = {"train": source, "val": val_source, "test": test_source}
        self.epoch_samples, self.shuffle_buffer = epoch_samples, shuffle_buffer
        self.allow_pickle, self.allow_pipe, self.verify = allow_pickle, allow_pipe, verify
        self.streamed = is_stream(source)
        self.manifest: Manifest | None = None
        self.bad: BadSamples | None = None
        self._training: TrainingStream | StreamTrainingLoader | None = None
        self._restored: dict[str, Any] | None = None

    # what the data are

    def prepare_data(self) -> None:
        """Build a known source that is not there yet; Lightning calls this in one process a node."""
        if self.streamed:
            if self.verify:
                raise RectifyError("data.verify needs a manifest; streamed shards have none, set it false.")
            return
        folder, recipe = resolve(self.source, self.build)
        if recipe is not None and not (folder / "manifest.json").is_file():
            build_shards(out=folder, progress=True, **recipe)
        elif recipe is not None:
            check_built_from(folder, recipe["source"], read_manifest(folder)[0].source_sha256)
        if self.verify:
            verify_shards(read_manifest(folder)[0])

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest and check it against the config."""
        if self.streamed:
            self._setup_streams()
            check_stream_splits(self._shards, stage, self.trainer)
        if self.streamed or self.manifest is not None:
            return
        self.manifest, self.index = read_manifest(resolve(self.source, self.build)[0])
        check_expected(self.manifest, self.expected)
        self.bad = self._new_bad(self.manifest.samples)
        self.ids = usable_ids(self.index, self.classes, self.bad)
        if self.imbalance is not None:
            self.ids["train"] = self.imbalance.keep(self.ids["train"], self.index.label)
        if self.label_noise is not None:
            self.index = self.label_noise.apply(self.index, self.ids, self.classes)
        if self.imbalance is not None:
            rank_zero_info(f"Training samples of each class: {self.class_counts}")
        self._setup_forgetting(self.class_names, self.forget_seed)
        self._reader = ShardReader(self.manifest, self.index)
        self._readers: dict[str, ShardReader | MemoryReader] = {}

    def _setup_streams(self) -> None:
        missing = [f"data.{key}" for key, value in self.expected.items() if value is None]
        if missing:
            raise RectifyError(f"Streamed shards do not say what is in them; set {', '.join(missing)}.")
        classes, channels, size = (int(value or 0) for value in self.expected.values())
        self._form = TarFormat((channels, size, size), classes, self.allow_pickle, self.allow_pipe)
        self._shards = {s: expand_shards(pattern, self.allow_pipe) for s, pattern in self.patterns.items() if pattern}
        self._samples = {
            split: count_samples(shards)
            if all(map(is_local, shards)) and not (split == "train" and self.epoch_samples)
            else None
            for split, shards in self._shards.items()
        }
        if self.epoch_samples is None and self._samples["train"] is None:
            raise RectifyError("data.epoch_samples is not set; shards on other machines cannot be counted, so set it.")

    @property
    def classes(self) -> int:
        return int(self.expected["classes"] or 0) if self.streamed else self._known().classes

    @property
    def class_names(self) -> list[str]:
        return list(map(str, range(self.classes))) if self.streamed else self._known().class_names

    @property
    def class_counts(self) -> list[int] | None:
        """Samples of each class in the training split, after `imbalance`; None for streams and before `setup`."""
        if self.manifest is None:
            return None
        trained = self.retain_index if self.request is not None and self.schedule == "retain" else self.ids["train"]
        return np.bincount(self.index.label[trained], minlength=self.classes).tolist()

    @property
    def manifest_path(self) -> Path | None:
        """The manifest's file, for the record of a run; None for streams and before `setup`."""
        return None if self.manifest is None else self.manifest.folder / "manifest.json"

    def images(self, indices: np.ndarray) -> Tensor:
        """Return (n, C, H, W) uint8 of samples by their index, as they are stored; for figures, not for streams."""
        return self._reader.images(np.asarray(indices))[0]

    def _known(self) -> Manifest:
        if self.manifest is None:
            raise RectifyError("The data are not set up yet; call prepare_data() and setup() first.")
        return self.manifest

    def _reader_of(self, split: str) -> ShardReader | MemoryReader:
        if split not in self._readers:
            self._readers[split] = self._reader
            ids = self.ids[split]
            fits = len(ids) * int(np.prod(self._reader.shape)) <= AUTO_CACHE_BYTES
            if self.cache == "memory" or (self.cache == "auto" and fits):
                held = MemoryReader(self._reader, ids)
                assert self.bad is not None
                for index, reason in held.faults:
                    self.bad.add(str(self.index.key[index]), reason, everywhere=True)
                # every rank reads all of them, so every rank leaves out the same
                self.ids[split] = np.setdiff1d(ids, [index for index, _ in held.faults])
                self._readers[split] = held
        return self._readers[split]

    # loaders

    def _parts(self, split: str) -> dict[str, Any]:
        reader = self._reader_of(split)
        workers = 0 if isinstance(reader, MemoryReader) else self.workers
        common = {"labels": self.index.label, "keys": self.index.key, "bad": self.bad, "workers": workers}
        return {"reader": reader, "indices": self.ids[split], **common}

    def train_dataloader(self) -> TrainingStream | StreamTrainingLoader:
        """Return a new loader of the training split: at the start of epoch 0, or where a restored run stood."""
        self._training = self._new_training_loader()
        if self._restored is not None:
            self._training.load_state_dict(self._restored)
            self._restored = None
        return self._training

    def state_dict(self) -> dict[str, Any]:
        """Return where the training data stand.

        Lightning also keeps the state of the loader, but forgets to restore it when the length of training was asked
        for before (`estimated_stepping_batches`, which every schedule by steps needs).
        """
        return {} if self._training is None else {"training": self._training.state_dict()}

    @property
    def standing(self) -> Standing | None:
        """Where training stands in the data; None before it, and for streams."""
        return None if isinstance(self._training, StreamTrainingLoader | None) else self._training.standing()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict.get("training")

    def _new_training_loader(self) -> TrainingStream | StreamTrainingLoader:
        if self.streamed:
            samples = self.epoch_samples or self._samples["train"] or 0
            self.bad = self._new_bad(samples)
            more: dict[str, Any] = {"workers": self.workers, "buffer": self.shuffle_buffer, "seed": global_seed()}
            return StreamTrainingLoader(self._shards["train"], self._form, self.bad, self.batch_size, samples, **more)
        more = {"batch_size": self.batch_size, "seed": global_seed(), "on_resize": self._reload_next_epoch}
        if self.request is not None and self.sampler is None:
            return self._unlearning_stream(**more)
        parts = self._parts("train")
        if self.request is not None:
            parts["indices"] = self.retain_index
        if self.sampler is not None:
            return BalancedLoader(sampler=self.sampler, **parts, **more)
        return TrainingLoader(**parts, **more, drop_last=self.drop_last)

    def val_dataloader(self) -> Any:
        return self._evaluation("val")

    def predict_dataloader(self) -> Any:
        return self._evaluation("test")

    def test_dataloader(self) -> Any:
        """Return the test loader; where the set has classes to calibrate on, a list of it and their loader."""
        if self.manifest is not None and len(self.ids[CALIBRATION]):
            return [self._evaluation("test"), self._evaluation(CALIBRATION)]
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Any:
        if not self.streamed:
            return EvaluationLoader(**self._parts(split), batch_size=self.eval_batch_size)
        if split not in self._shards:
            return []
        samples = self._samples[split]
        bad = self._new_bad(samples or self.epoch_samples or 1)
        return StreamEvaluationLoader(self._shards[split], self._form, bad, self.eval_batch_size, samples)

    def _new_bad(self, samples: int) -> BadSamples:
        epoch = lambda: self._training.epoch if self._training else 0  # noqa: E731
        return BadSamples(self.max_bad_samples, samples, readers=collectives.world_size(), epoch=epoch)

    def _reload_next_epoch(self) -> None:
        # Lightning takes the length of an epoch once; one resumed on another world size has a length of its own
        if self.trainer is not None:
            self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
