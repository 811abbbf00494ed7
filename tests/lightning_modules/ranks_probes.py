"""Fit each awkward objective for six steps, resume it from the third, and report losses and weights.

In one process the whole batch of 32; in two, rows r::2 on rank r. Objectives that draw random numbers are compared by a
replay: one process computes the loss of each rank's half with that rank's key and steps on their mean.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from probes.kl_dro import KLDRO
from probes.saliency_soft import SaliencySoft
from probes.scrub import Scrub
from probes.tcm_proxy_anchor import TCMProxyAnchor
from probes.trades_awp import TradesAWP
from processes import report, start
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits

import lightning_rectify.losses as losses
from lightning_rectify.backbones import ResNet
from lightning_rectify.lightning_modules import Rectifier
from lightning_rectify.losses.objective import Context

PROBES = {
    "fmix": lambda: losses.FMix(),
    "dirichlet_mixup": lambda: losses.DirichletMixup(d=3),
    "manifold_mixup": lambda: losses.ManifoldMixup(layers=["input", "layer1"]),
    "trades_awp": TradesAWP,
    "kl_dro": KLDRO,
    "scrub": Scrub,
    "saliency_soft": SaliencySoft,
    "tcm_proxy_anchor": TCMProxyAnchor,
}
STEPS, BATCH = 6, 32
REPLAYED = ("fmix", "dirichlet_mixup", "manifold_mixup")


class Batches:
    """Six fixed batches; the state is the number of batches handed out."""

    def __init__(self, rank, world, paired):
        digits = load_digits()
        image = torch.tensor(digits.images / 16, dtype=torch.float64)[
            :, None
        ]  # so that a difference is a mistake and not the noise of a kink
        label = torch.tensor(digits.target)
        rows = torch.arange(STEPS * BATCH).view(STEPS, BATCH)[:, rank::world]
        self.batches = [{"image": image[r], "label": label[r], "index": r} for r in rows]
        if paired:
            self.batches = [{"forget": b, "retain": b} for b in self.batches]
        self.done = 0

    def __len__(self):
        return STEPS

    def __iter__(self):
        for batch in self.batches[self.done :]:
            self.done += 1
            yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


class Recorded(Rectifier):
    losses: list

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        return loss


def module(name):
    torch.manual_seed(1)
    backbone = ResNet(10, channels=1, depth=8, width=16, norm="group")
    made = Recorded(backbone, PROBES[name](), optimizer=lambda weights: torch.optim.SGD(weights, 0.05, momentum=0.9))
    made.double().losses = []
    return made


def fit(name, folder, rank, world, resume=None):
    made = module(name)
    save = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_epochs=1,
        logger=False,
        callbacks=[save],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(made, Batches(rank, world, PROBES[name] is Scrub), ckpt_path=resume)
    return made


def replay(name):
    """One process that computes both ranks' losses with their keys."""
    made = module(name)
    made.objective.setup(made.backbone)
    optimizer = made.configure_optimizers()
    losses = []
    halves = [Batches(rank, 2, False).batches for rank in range(2)]
    for step in range(STEPS):
        each = [
            made.objective(made.backbone, halves[rank][step], Context(step, step / STEPS, (0, rank, 0, step))).loss
            for rank in range(2)
        ]
        loss = sum(each) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.objective.after_step(made.backbone)
        losses.append(float(loss.detach()))
    return losses, flat(made)


def flat(made):
    return torch.cat([p.detach().flatten() for p in made.parameters() if p.requires_grad])


def main():
    warnings.filterwarnings("ignore")
    rank, world = start()
    results = {}
    for name in sys.argv[1:] or PROBES:
        with tempfile.TemporaryDirectory() as own:
            folder = own
            if world > 1:
                box = [own]
                torch.distributed.broadcast_object_list(box, src=0)
                folder = box[0]
            full = fit(name, folder, rank, world)
            resumed = fit(name, folder, rank, world, resume=str(Path(folder) / "step=3.ckpt"))
            if world > 1:
                torch.distributed.barrier()
        results[name] = {
            "losses": full.losses,
            "resumed_losses": resumed.losses,
            "resumed_equal": bool(torch.equal(flat(full), flat(resumed))),
            "weights": flat(full)[-2000:],
        }
        if name in REPLAYED and world == 1:
            replayed, weights = replay(name)
            results[name]["replay"] = {"losses": replayed, "weights": weights[-2000:]}
    report(results)


if __name__ == "__main__":
    main()
