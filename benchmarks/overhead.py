"""What Trainer + Classifier cost a training step over a bare loop of the same mathematics, on Fashion-MNIST.

    python benchmarks/overhead.py                 # writes results/overhead.json

Both sides train the same ResNet-8 with the same data, batch size, optimizer and losses; a pair is one epoch of each,
interleaved, and the figure is the difference of their time per step. `with_callbacks` adds the CalibrationReport, the
SaliencyMaps and the finite-loss guard, validation included.
"""

import argparse
import statistics
import tempfile
import time
import warnings

import torch
from measure import keep_freed_memory, write_result
from pytorch_lightning import Trainer

from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks import CalibrationReport, FiniteLoss, SaliencyMaps
from lightning_rectify.datamodules import ShardDataModule
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.losses import EmpiricalRisk

STEPS, BATCH = 100, 64


def network():
    torch.manual_seed(0)
    return ResNet(10, channels=1, depth=8, width=8)


def optimizer(weights):
    return torch.optim.SGD(weights, 0.05, momentum=0.9)


def bare(data):
    """Seconds per step of the plain loop."""
    backbone = network()
    steps = optimizer(backbone.parameters())
    loader = iter(data.train_dataloader())
    losses, correct = torch.zeros(()), torch.zeros(())
    start = time.perf_counter()
    for _ in range(STEPS):
        batch = next(loader)
        logits = backbone(batch["image"].float() / 255)
        loss = torch.nn.functional.cross_entropy(logits, batch["label"])
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses += loss.detach()
        correct += (logits.detach().argmax(1) == batch["label"]).float().mean()
    return (time.perf_counter() - start) / STEPS


class Timed(Classifier):
    """Notes when the first and the last batch of training began and ended."""

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 0:
            self.started = time.perf_counter()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.ended = time.perf_counter()


def trained(data, callbacks=(), validation=0):
    """Seconds per step inside the Trainer; with validation, of the whole epoch."""
    module = Timed(network(), EmpiricalRisk(), optimizer=optimizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, limit_train_batches=STEPS, limit_val_batches=validation,
            num_sanity_val_steps=0, logger=False, callbacks=list(callbacks), enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(module, data)
        whole = time.perf_counter() - start
    # the first batch is fetched before its start is noted: STEPS - 1 full intervals and one without its fetch
    return (whole if validation else module.ended - module.started) / STEPS


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    data = ShardDataModule("fashion_mnist", batch_size=BATCH)
    data.prepare_data()
    data.setup()
    bare(data), trained(data)
    rows = []
    for _ in range(options.pairs):
        plain = bare(data)
        ours = trained(data)
        guarded = trained(data, [FiniteLoss()])
        rows.append((plain, ours, guarded))
    quiet = trained(data, validation=10)
    full = trained(data, [FiniteLoss(), CalibrationReport(), SaliencyMaps()], validation=10)

    def middle(values):
        return round(statistics.median(values) * 1e3, 3)

    write_result(
        "overhead",
        {
            "steps": STEPS,
            "batch": BATCH,
            "pairs": options.pairs,
            "bare_ms": middle(plain for plain, _, _ in rows),
            "trainer_ms": middle(ours for _, ours, _ in rows),
            "overhead_ms": middle(ours - plain for plain, ours, _ in rows),
            "with_finite_loss_guard_ms": middle(guarded - plain for plain, _, guarded in rows),
            "epoch_with_validation_ms_a_step": round(quiet * 1e3, 3),
            "epoch_with_all_callbacks_ms_a_step": round(full * 1e3, 3),
        },
    )


if __name__ == "__main__":
    main()
