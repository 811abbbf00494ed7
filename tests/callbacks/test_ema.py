"""The average equals the recursion by hand, is what gets validated and saved, and survives a resume."""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks import EMA
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier


def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(8, 1, 8, 8, generator=generator), "label": torch.arange(8) % 3, "index": torch.arange(8)}
        for _ in range(4)
    ]


class Recorder(Classifier):
    """Keeps the weights after each optimizer step and those it is validated with."""

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx:
            self.after_step.append(self.backbone.classifier.weight.detach().clone())

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.after_step.append(self.backbone.classifier.weight.detach().clone())

    def validation_step(self, batch, batch_idx):
        self.validated = self.backbone.classifier.weight.detach().clone()
        return super().validation_step(batch, batch_idx)


def tied(backbone):
    backbone.layer1[0].conv2.weight = backbone.layer1[0].conv1.weight
    return backbone


def fit(folder, epochs=2, resume=None, decay=0.8, prepare=lambda backbone: backbone):
    torch.manual_seed(0)
    module = Recorder(
        prepare(ResNet(3, channels=1, width=8)), optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)
    )
    module.after_step = []
    save = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, monitor=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[EMA(decay), save], num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(batches(), batch_size=None)
    trainer.fit(module, loader, DataLoader(batches()[:1], batch_size=None), ckpt_path=resume)
    return module


def average(weights, decay=0.8):
    value = weights[0]
    for weight in weights[1:]:
        value = decay * value + (1 - decay) * weight
    return value


def test_a_tied_weight_is_averaged_too(tmp_path):
    module = fit(tmp_path, prepare=tied)
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    names = [f"backbone.layer1.0.conv{place}.weight" for place in (1, 2)]
    one, other = (saved["state_dict"][name] for name in names)
    kept = module.backbone.layer1[0]
    assert torch.equal(one, other) and torch.equal(one, kept.conv1.weight) and kept.conv1.weight is kept.conv2.weight
    assert not torch.equal(one, saved["raw_backbone"]["layer1.0.conv1.weight"])


def test_average_is_the_recursion_and_what_is_validated_saved_and_kept(tmp_path):
    module = fit(tmp_path)
    expected = average(module.after_step)
    torch.testing.assert_close(module.validated, expected)
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["backbone.classifier.weight"], expected)
    assert torch.equal(saved["raw_backbone"]["classifier.weight"], module.after_step[-1])
    torch.testing.assert_close(module.backbone.classifier.weight, expected)  # whoever goes on after the fit


def test_resume_continues_training_weights_and_average_bit_for_bit(tmp_path):
    whole = fit(tmp_path / "whole")
    resumed = fit(tmp_path / "resumed", resume=str(tmp_path / "whole" / "epoch=0.ckpt"))
    assert torch.equal(whole.after_step[-1], resumed.after_step[-1])
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": 0.0}, {"every_n_steps": 0}])
def test_bad_values_are_named(options):
    with pytest.raises(RectifyError, match=next(iter(options))):
        EMA(**options)
