"""One strategy, one launch, all its cells: `ranks_strategies.py <strategy> <folder>`."""

import logging
import shutil
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from cells import LR, STEPS, Batches, batches_of, cell_names, make_backbone, make_objective
from processes import report, start
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import DataLoader

from lightning_rectify.backbones import TimmBackbone
from lightning_rectify.callbacks import Preemption
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier, Cosine
from lightning_rectify.losses import EmpiricalRisk
from lightning_rectify.strategies import FSDP2, DeepSpeed

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
name, folder = sys.argv[1], Path(sys.argv[2])
rank, world = start()


def strategy():
    if name == "ddp":
        return pl.strategies.DDPStrategy(process_group_backend="gloo")
    return FSDP2() if name == "fsdp2" else DeepSpeed(stage=int(name[-1]))


class Module(Classifier):
    """The project's classifier, which also notes the loss of each micro-batch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach().item())
        return loss


def trainer(**kwargs):
    plain = dict(  # noqa: C408
        accelerator="cpu", devices=world, logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0, enable_checkpointing=False,
        strategy=strategy(), default_root_dir=folder, max_epochs=1,
    )  # fmt: skip
    return pl.Trainer(**{**plain, **kwargs})


def loader(objective, length):
    return DataLoader(Batches(objective, rank, length), batch_size=None)


def cell(objective_name, accumulate, clip, epochs, **options):
    """Losses of each micro-batch; longer runs also have a schedule by steps."""
    objective = make_objective(objective_name)
    module = Module(
        make_backbone(), objective, optimizer=partial(torch.optim.SGD, lr=LR), schedule=Cosine() if epochs > 1 else None
    )
    after, moved = objective.after_step, []
    objective.after_step = lambda backbone: (after(backbone), moved.append(1))
    fit = trainer(accumulate_grad_batches=accumulate, gradient_clip_val=clip, max_epochs=epochs, **options)
    fit.fit(module, loader(objective, batches_of(accumulate, epochs)))
    engine = getattr(fit.strategy.model, "global_steps", fit.global_step)
    results["steps"][f"{objective_name}/{accumulate}/{clip}/{epochs}"] = [fit.global_step, engine, len(moved)]
    return module.losses


def attempt(function, *args):
    try:
        return function(*args)
    except RectifyError as error:
        return f"refused: {error}"
    except Exception:
        return "failed: " + traceback.format_exc()[-1500:]


def reductions(objective_name):
    """How many gradient buckets DDP reduces in a run."""
    count = 0

    class Count(pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.model.register_comm_hook(None, hook)

    def hook(state, bucket):
        nonlocal count
        count += 1
        return allreduce_hook(torch.distributed.group.WORLD, bucket)

    module = Module(make_backbone(), make_objective(objective_name), optimizer=partial(torch.optim.SGD, lr=LR))
    trainer(callbacks=[Count()]).fit(module, loader(module.objective, STEPS))
    return count


def vision_transformer(objective_name):
    """A network whose class token and position embedding belong to no layer, called by its features and its head."""
    torch.manual_seed(0)
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = TimmBackbone("vit_tiny_patch16_224", classes=4, options=small)
    module = Module(backbone, make_objective(objective_name), optimizer=partial(torch.optim.SGD, lr=LR))
    trainer().fit(module, loader(module.objective, STEPS))
    return module.losses


def batch_norm():
    """Losses of a batch-norm net and its validation afterwards, whose statistics no rank may have for itself."""
    objective = EmpiricalRisk()
    module = Module(make_backbone("batch"), objective, optimizer=partial(torch.optim.SGD, lr=LR))
    fit = trainer(limit_val_batches=3)
    fit.fit(module, loader(objective, STEPS), loader(objective, 3))
    return [*module.losses, fit.callback_metrics["val/loss"].item()]


def bf16():
    """Losses under bf16-mixed, and whether the weights of a run with learning rate 0 stay exactly as they were."""
    module = Module(make_backbone(), EmpiricalRisk(), optimizer=partial(torch.optim.SGD, lr=LR))
    trainer(precision="bf16-mixed").fit(module, loader(module.objective, STEPS))
    still = Module(make_backbone(), EmpiricalRisk(), optimizer=partial(torch.optim.SGD, lr=0.0))
    fit = trainer(precision="bf16-mixed")
    fit.fit(still, loader(still.objective, 2))
    fit.save_checkpoint(folder / "bf16.ckpt")
    return module.losses


class Save(pl.Callback):
    """Saves at the first epoch's end and in the middle of the second."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == STEPS + 2:
            trainer.save_checkpoint(folder / "middle.ckpt")

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(folder / "epoch.ckpt")


class Resumable:
    """Batches that go on where a checkpoint left them."""

    def __init__(self, objective):
        self.batches, self.done = Batches(objective, rank, STEPS), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for index in range(self.done % len(self), len(self)):
            self.done = index + 1
            yield self.batches[index]

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


def resumed(objective_name, at=None):
    objective = make_objective(objective_name)
    module = Module(make_backbone(), objective, optimizer=partial(torch.optim.SGD, lr=LR, momentum=0.9))
    fit = trainer(max_epochs=2, callbacks=[] if at else [Save(), Preemption(fingerprint="mine")])
    fit.fit(module, Resumable(objective), ckpt_path=folder / at if at else None)
    return module.losses


def tested(objective_name):
    """Test from the checkpoint with a fresh module."""
    objective = make_objective(objective_name)
    module = Module(make_backbone(), objective, optimizer=partial(torch.optim.SGD, lr=LR))
    fit = trainer()
    fit.test(module, loader(objective, 3), ckpt_path=folder / "middle.ckpt", verbose=False)
    return fit.callback_metrics["test/loss"].item()


def offload():
    return cell("baseline", 2, None, 2, strategy=DeepSpeed(stage=int(name[-1]), offload=True))


def foreign():
    """A folder without a seal; the refusal must reach both ranks."""
    copied = folder / "foreign.ckpt"
    if rank == 0:
        shutil.copytree(folder / "middle.ckpt", copied)
        (copied / "rectify.seal.json").unlink()
    torch.distributed.barrier()
    module = Module(make_backbone(), EmpiricalRisk(), optimizer=partial(torch.optim.SGD, lr=LR))
    trainer().fit(module, loader(module.objective, STEPS), ckpt_path=copied)


results = {"cells": {}, "resume": {}, "steps": {}}
begun = time.perf_counter()
for cell_name in cell_names(name):
    results["cells"]["/".join(map(str, cell_name))] = attempt(cell, *cell_name)
results["cell_seconds"] = (time.perf_counter() - begun) / len(results["cells"])
results["batch_norm"] = attempt(batch_norm)
results["vit"] = {case: attempt(vision_transformer, case) for case in ("Proxies", "FrozenTeacher")}
results["bf16"] = attempt(bf16)
for stateful in ("GlobalWeights", "FrozenTeacher"):
    saved = (None, "epoch.ckpt", "middle.ckpt")
    results["resume"][stateful] = {at or "whole": attempt(resumed, stateful, at) for at in saved}
results["test"] = attempt(tested, "FrozenTeacher")
if name == "ddp":
    results["reductions"] = {case: attempt(reductions, case) for case in ("baseline", "PGDTraining")}
if name.startswith("zero"):
    results["offload"] = attempt(offload)
    results["foreign"] = attempt(foreign)
report(results)
