"""Two ranks; the loss of rank 1 alone turns NaN."""

import pytorch_lightning as pl
import torch
from lightning_rectify.callbacks import FiniteLoss
from lightning_rectify.errors import RectifyError
from processes import report, start
from torch import nn

rank, world = start()


class Poisoned(pl.LightningModule):
    def __init__(self, at):
        super().__init__()
        self.layer, self.at = nn.Linear(4, 2), at

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        if batch_idx == self.at and rank == 1:
            loss = loss * float("nan")
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def run(at):
    torch.manual_seed(0)
    module = Poisoned(at)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=world, logger=False, enable_checkpointing=False,
        strategy=pl.strategies.DDPStrategy(process_group_backend="gloo"), callbacks=[FiniteLoss()],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    message = ""
    try:
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(6, 4)))
    except RectifyError as error:
        message = str(error)
    return message, [p.detach().clone() for p in module.parameters()], trainer.global_step


clean, _, _ = run(-1)
message, weights, step = run(3)
report({"clean": clean, "message": message, "step": step, "finite": all(w.isfinite().all().item() for w in weights)})
