"""The unlearning streams as each of several processes sees them; see test_unlearning_loader.py."""

import sys

import numpy as np
import pytorch_lightning as pl
import torch
from processes import ranks_trainer, report, start

from lightning_rectify.datamodules import ShardDataModule

rank, world = start()
BATCH = 100 // world  # so that a step of all ranks has the same samples


class Recorder(pl.LightningModule):
    unlearns = True

    def __init__(self, save_to=None):
        super().__init__()
        self.save_to, self.seen = save_to, []
        self.net = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        parts = [batch["forget"], batch["retain"]]
        self.seen.append([part and part["index"].tolist() for part in parts])
        images = torch.cat([part["image"].flatten(1) for part in parts if part])
        return self.net(images).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.save_to:
            self.trainer.save_checkpoint(f"{self.save_to}/step-{self.global_step}.ckpt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(schedule, folder=None, ckpt=None, forget="class:3,7", save_to=None):
    pl.seed_everything(3, verbose=False)
    model = Recorder(save_to)
    data = ShardDataModule("digits", batch_size=BATCH, forget=forget, schedule=schedule)
    trainer = ranks_trainer(world, max_epochs=2, default_root_dir=folder, limit_val_batches=0)
    trainer.fit(model, data, ckpt_path=ckpt)
    return model.seen, data


def main(folder):
    results = {}
    seen, data = run("forget_then_retain", folder, save_to=folder if world > 1 else None)
    results["forget_then_retain"] = seen
    for name, loader in (("forget", data.forget_dataloader()), ("retain", data.retain_dataloader())):
        results[f"evaluated_{name}"] = [batch["index"].tolist() for batch in loader]
    results["paired"], _ = run("paired", folder)
    if world == 1:
        for step in (1, 5):
            results[f"after_{step}"], _ = run("forget_then_retain", folder, ckpt=f"{folder}/step-{step}.ckpt")
    np.save(f"{folder}/one-{rank}.npy", data.forget_index[:1])
    single, _ = run("paired", folder, forget=f"index:{folder}/one-{rank}.npy")
    results["single"] = [step[0] for step in single]
    report(results)


if __name__ == "__main__":
    main(sys.argv[1])
