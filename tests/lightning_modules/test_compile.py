"""A compiled backbone trains as a plain one does, under an attack too, with the same checkpoint keys."""

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_rectify.attacks import PGD
from lightning_rectify.backbones import ResNet
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.losses import AdversarialTraining

SEEN = []


class Traced(ResNet):
    """Graphs run eagerly: what is tested is how they are asked for, not what a compiler makes of them."""

    def compile(self, mode=None):
        SEEN.append(mode)
        super().compile(backend="eager")


def weights_after_two_steps(compile):
    torch.manual_seed(0)
    module = Classifier(
        Traced(10, channels=1, width=8, norm="group"),
        AdversarialTraining(PGD(eps=0.1, step_size=0.05, steps=2)),
        optimizer=lambda p: torch.optim.SGD(p, 0.1),
        compile=compile,
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=ShardDataModule("digits", batch_size=8))
    return module.state_dict()


@pytest.mark.parametrize("compile, mode", [(True, None), ("reduce-overhead", "reduce-overhead")])
def test_a_compiled_backbone_trains_as_a_plain_one(compile, mode):
    SEEN.clear()
    plain = weights_after_two_steps(False)
    assert not SEEN
    compiled = weights_after_two_steps(compile)
    assert [mode] == SEEN
    assert plain.keys() == compiled.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, atol=1e-5, rtol=1e-4)
