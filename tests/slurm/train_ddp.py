"""A two-node training that continues from its own folder; the stand-in for train.py in the test of the sbatch file."""

import argparse
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_rectify.callbacks import Preemption, config_fingerprint, find_resume
from lightning_rectify.strategies import AtomicCheckpoint

BATCHES, EPOCHS = 20, 3


class Loader:
    """Batches are a function of (rank, epoch, position), and the position is saved."""

    epoch = position = done = 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        start, self.done = self.done, 0
        for position in range(start, BATCHES):
            self.position = (position + 1) % BATCHES
            key = 1000 * torch.distributed.get_rank() + 100 * self.epoch + position
            yield torch.randn(8, 16, generator=torch.Generator().manual_seed(key))

    def state_dict(self):
        return {"done": self.position}

    def load_state_dict(self, state):
        self.done = state["done"]


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
        self.loader = Loader()

    def train_dataloader(self):
        return self.loader

    def on_train_start(self):
        self.loader.epoch = self.current_epoch

    def on_train_epoch_start(self):
        self.loader.epoch = self.current_epoch

    def training_step(self, batch, batch_idx):
        time.sleep(0.1)
        (Path(self.trainer.default_root_dir) / "progress").write_text(str(self.global_step))
        return (self.net(batch) - batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("-c", action="append")
    for name in ("--name", "--trainer.num_nodes", "--trainer.devices"):
        parser.add_argument(name)
    options = vars(parser.parse_args())
    folder = Path("runs", options["name"])
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = config_fingerprint({"epochs": EPOCHS})
    trainer = pl.Trainer(
        accelerator="cpu", num_nodes=int(options["trainer.num_nodes"]), devices=int(options["trainer.devices"]),
        strategy=pl.strategies.DDPStrategy(process_group_backend="gloo"), max_epochs=EPOCHS, default_root_dir=folder,
        callbacks=[Preemption(fingerprint=fingerprint)], plugins=[AtomicCheckpoint()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    net = Net()
    trainer.fit(net, ckpt_path=find_resume(folder, fingerprint))
    trainer.save_checkpoint(folder / "final.ckpt")


if __name__ == "__main__":
    main()
