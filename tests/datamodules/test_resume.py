"""A run that is stopped and resumed anywhere sees the samples an undisturbed run sees, in the same order and view."""

from itertools import chain

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rectify.datamodules import PadCrop, ShardDataModule


def flat(lists):
    return list(chain.from_iterable(lists))


class Recorder(pl.LightningModule):
    def __init__(self, stop_after=None):
        super().__init__()
        self.net = torch.nn.Linear(64, 10)
        self.stop_after, self.seen, self.validations = stop_after, [], []

    def training_step(self, batch, batch_idx):
        if self.stop_after == len(self.seen):
            raise KeyboardInterrupt
        self.seen.append((self.current_epoch, batch_idx, batch["index"].tolist(), float(batch["image"].double().sum())))
        return torch.nn.functional.cross_entropy(self.net(batch["image"].flatten(1)), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.validations.append(self.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(autouse=True)
def _seed_of_this_test(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")  # put back afterwards, whatever seed_everything writes


def run(folder, stop_after=None, ckpt=None, module=None, kind=Recorder, **options):
    pl.seed_everything(3, verbose=False)
    data = ShardDataModule("digits", augment=[PadCrop(2)], **{"batch_size": 200, **(module or {})})
    model = kind(stop_after)
    keep = ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, every_n_train_steps=1, save_on_train_epoch_end=False
    )
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **options,
    )
    try:
        trainer.fit(model, data, ckpt_path=ckpt)
    except SystemExit:  # how Lightning ends on KeyboardInterrupt
        assert stop_after is not None
    return model


class Scheduled(Recorder):
    """Asks for the length of training before the loader's state is restored, as every schedule by steps does."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 18
        return super().configure_optimizers()


def test_resume_when_the_length_of_training_was_asked_for(tmp_path):
    whole = run(tmp_path / "whole", kind=Scheduled)
    for step in (1, 7, 12):
        resumed = run(tmp_path / "resumed", ckpt=tmp_path / "whole" / f"step={step}.ckpt", kind=Scheduled)
        assert resumed.seen == whole.seen[step:], f"resumed at step {step}"


CASES = [{}, {"limit_train_batches": 4}, {"val_check_interval": 2}]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_resume_from_every_step(tmp_path, options):
    whole = run(tmp_path / "whole", **options)
    per_epoch = options.get("limit_train_batches", 6)
    assert len(whole.seen) == 3 * per_epoch
    assert len({tuple(indices) for _, _, indices, _ in whole.seen}) == len(whole.seen)
    for step in range(1, 3 * per_epoch):
        resumed = run(tmp_path / "resumed", ckpt=tmp_path / "whole" / f"step={step}.ckpt", **options)
        assert resumed.seen == whole.seen[step:], f"resumed at step {step}"
        assert set(resumed.validations) >= {v for v in whole.validations if v > step}
        assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_kill_and_resume_with_workers(tmp_path):
    module = {"workers": 1, "cache": "none"}
    whole = run(tmp_path / "whole", module=module)
    killed = run(tmp_path / "killed", stop_after=9, module=module)
    resumed = run(tmp_path / "resumed", ckpt=tmp_path / "killed" / "step=9.ckpt", module=module)
    assert killed.seen + resumed.seen == whole.seen


def test_another_batch_size_goes_on_in_the_same_order(tmp_path):
    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", ckpt=tmp_path / "whole" / "step=2.ckpt", module={"batch_size": 100})
    order = flat((indices for epoch, _, indices, _ in whole.seen if epoch == 0))
    rest = flat((indices for epoch, _, indices, _ in resumed.seen if epoch == 0))
    assert rest[:800] == order[400:]
    assert [sum(epoch == e for epoch, *_ in resumed.seen) for e in range(3)] == [8, 12, 12]
    assert len(resumed.validations) == 3 * 3  # 270 samples in batches of 100, after every epoch
