"""Test a Retriever on glyph classes never seen, and list the batches this rank trains on."""

import tempfile
import warnings

import torch
from processes import report, start
from pytorch_lightning import Trainer

from lightning_rectify.backbones import PlainNet
from lightning_rectify.callbacks import ThresholdConsistency
from lightning_rectify.collectives import broadcast_object
from lightning_rectify.datamodules import BalancedClasses, ShardDataModule
from lightning_rectify.lightning_modules import Retriever
from lightning_rectify.losses import MetricLearning, SmoothAP, ThresholdConsistentMargin

OPTIONS = {"max_classes": 12, "min_fonts": 12, "size": 16}


def main():
    warnings.filterwarnings("ignore")
    _, world = start()
    torch.manual_seed(1)
    folder = broadcast_object(tempfile.mkdtemp())
    data = ShardDataModule(
        "glyphs", batch_size=16, eval_batch_size=37, sampler=BalancedClasses(4), build={"options": OPTIONS}
    )
    module = Retriever(
        PlainNet(16, size=16, width=4), MetricLearning(SmoothAP(), [ThresholdConsistentMargin()]), calibrate_far=0.1
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        callbacks=[ThresholdConsistency()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    scores = trainer.test(module, data, verbose=False)[0]
    report({"scores": scores, "batches": [batch["index"].tolist() for batch in data.train_dataloader()]})


if __name__ == "__main__":
    main()
