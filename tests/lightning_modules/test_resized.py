"""A run that resumes with another batch size ends its schedule with its last step, not before and not after."""

from itertools import pairwise

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rectify.backbones import ResNet
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.lightning_modules import Classifier, Cosine


class Recorder(Classifier):
    def training_step(self, batch, batch_idx):
        self.seen.append((self.context(batch_idx).progress, self.trainer.optimizers[0].param_groups[0]["lr"]))
        return super().training_step(batch, batch_idx)


def fit(folder, batch_size, resume=None):
    torch.manual_seed(0)
    module = Recorder(ResNet(10, channels=1, width=8), optimizer=lambda p: torch.optim.SGD(p, 1.0), schedule=Cosine())
    module.seen = []
    save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, logger=False, callbacks=[save], limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=ShardDataModule("digits", batch_size=batch_size), ckpt_path=resume)
    return module.seen


@pytest.mark.parametrize("batch_size", [50, 400])
def test_progress_and_rate_go_on_from_where_they_stood(tmp_path, batch_size):
    whole = fit(tmp_path, 200)  # 6 steps an epoch; stopped in the second
    stood = whole[7][0]
    resumed = fit(tmp_path / "resized", batch_size, tmp_path / "step=7.ckpt")
    progress = [share for share, _ in resumed]
    assert progress[0] == pytest.approx(stood, abs=0.02)
    assert progress == sorted(progress) and progress[-1] < 1
    gaps = [later - earlier for earlier, later in pairwise(progress)]
    assert max(gaps) == pytest.approx(min(gaps)) == pytest.approx(1 - progress[-1])
    assert all(rate > 0 for _, rate in resumed) and resumed[-1][1] < 0.1
