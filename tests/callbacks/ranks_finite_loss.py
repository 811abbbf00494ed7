"""Two ranks; the loss of rank 1 alone turns NaN, under DDP, FSDP2 and ZeRO-2."""

from importlib.util import find_spec

import pytorch_lightning as pl
import torch
from processes import report, start
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_rectify.callbacks import FiniteLoss
from lightning_rectify.errors import RectifyError
from lightning_rectify.strategies import FSDP2, DeepSpeed

rank, world = start()


class Poisoned(pl.LightningModule):
    def __init__(self, at, sharded):
        super().__init__()
        self.layer, self.at, self.sharded = nn.Linear(4, 2), at, sharded
        self.before = None

    def configure_model(self):
        if self.sharded:
            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        if batch_idx == self.at:
            self.before = weights(self)  # while they are sharded
        loss = self.layer(batch).square().mean()
        if batch_idx == self.at and rank == 1:
            loss = loss * float("nan")
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def weights(module):
    return [getattr(p, "_local_tensor", p).detach().clone() for p in module.parameters()]


def run(name, strategy, at=3):
    torch.manual_seed(0)
    module = Poisoned(at, name == "fsdp2")
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=world, logger=False, enable_checkpointing=False, strategy=strategy,
        callbacks=[FiniteLoss()], enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    message = ""
    try:
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(6, 4)))
    except RectifyError as error:
        message = str(error)
    kept = at >= 0 and all(torch.equal(a, b) for a, b in zip(module.before, weights(module), strict=True))
    return {"message": message, "step": trainer.global_step, "kept": kept}


results = {
    "clean": run("clean", DDPStrategy(process_group_backend="gloo"), at=-1),
    "ddp": run("ddp", DDPStrategy(process_group_backend="gloo")),
    "fsdp2": run("fsdp2", FSDP2()),
}
if find_spec("deepspeed"):
    results["zero2"] = run("zero2", DeepSpeed(stage=2))
report(results)
