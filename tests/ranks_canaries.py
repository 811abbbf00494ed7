"""Upstream behaviour that needs a fresh process: DeepSpeed and FSDP2 with one rank, WebDataset without WDS_SECURE."""

import io
import logging
import os
import pickle
import sys
import tarfile
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import webdataset as wds
from jsonargparse import ArgumentParser
from processes import report
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(1)
folder = Path(sys.argv[1])


class OnCPU(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, changed only so far that it starts without CUDA."""

    def setup_environment(self):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        DDPStrategy.setup_environment(self)

    def setup_distributed(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self):
        return torch.device("cpu", 0)


class Linear(pl.LightningModule):
    """loss = weight @ batch: the gradient is the batch itself."""

    def __init__(self, lr=1.0, early=False):
        super().__init__()
        self.weight = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.constant_(self.weight.weight, 0.1)
        self.lr, self.hooked = lr, 0
        self.optimizer = torch.optim.SGD(self.parameters(), lr=lr) if early else None

    def training_step(self, batch, batch_idx):
        return self.weight(batch["x"] if isinstance(batch, dict) else batch).sum()

    test_step = training_step

    def configure_optimizers(self):
        return self.optimizer or torch.optim.SGD(self.parameters(), lr=self.lr)


class Sharded(Linear):
    def configure_model(self):
        fully_shard(self.weight, mesh=self.device_mesh["data_parallel"])


class HookedEarly(Sharded):
    def setup(self, stage):
        self.weight.weight.register_hook(self.count)

    def count(self, gradient):
        self.hooked += 1


def fit(module, strategy, loader=None, **kwargs):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, max_epochs=1, strategy=strategy, **kwargs,
    )  # fmt: skip
    trainer.fit(module, loader or DataLoader(torch.ones(2, 3), batch_size=1))
    return trainer


def zero(**kwargs):
    small = {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 1000, "allgather_bucket_size": 1000}
    return OnCPU(**{**small, "logging_batch_size_per_gpu": 1, **kwargs})


def error(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
    return ""


def moved(module):
    weight = module.weight.weight.detach()
    return (torch.full((3,), 0.1) - (weight.full_tensor() if hasattr(weight, "full_tensor") else weight)).flatten()


def double_division():
    module = Linear()
    fit(module, zero(), accumulate_grad_batches=2)
    return moved(module)[0].item()


def bf16_masters():
    module = Linear(lr=0.0)
    fit(module, zero(), precision="bf16-mixed")
    return moved(module).abs().max().item()


def dict_loader():
    class Loader:  # what CombinedLoader and batch_size=None give: a batch sampler without a batch size
        batch_sampler = None

        def __iter__(self):
            return iter([{"x": torch.ones(1, 3)}])

        def __len__(self):
            return 1

    return error(fit, Linear(), zero(logging_batch_size_per_gpu="auto"), Loader())


def zero3_test():
    module = Linear()
    fit(module, zero(stage=3)).save_checkpoint(folder / "zero3.ckpt")
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, strategy=zero(stage=3),
        use_distributed_sampler=False,
    )  # fmt: skip
    return error(trainer.test, Linear(), DataLoader(torch.ones(2, 3)), ckpt_path=folder / "zero3.ckpt", verbose=False)


def backward_attack():
    class Attacked(Linear):
        def training_step(self, batch, batch_idx):
            x = batch.clone().requires_grad_()
            self.weight(x).sum().backward()
            return self.weight(x + x.grad.sign()).sum()

    return error(fit, Attacked(), zero())


def model_parallel():
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)


def early_optimizer():
    early, late = Sharded(early=True), Sharded()
    fit(early, model_parallel()), fit(late, model_parallel())
    return [moved(early).abs().max().item(), moved(late).abs().max().item()]


def early_hook():
    module = HookedEarly()
    fit(module, model_parallel())
    return module.hooked


class Evil:
    def __reduce__(self):
        return (Path.touch, (folder / "executed",))


def tar(name, members):
    with tarfile.open(folder / name, "w") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(folder / name)


def pickled_shard():
    shard = tar("evil.tar", {"a.pyd": pickle.dumps(Evil())})
    list(wds.WebDataset(shard, shardshuffle=False).decode())
    return (folder / "executed").exists()


def piped_shard():
    list(wds.WebDataset(f"pipe:touch {folder}/piped; cat {tar('plain.tar', {'a.cls': b'1'})}", shardshuffle=False))
    return (folder / "piped").exists()


def shuffled_order():
    shards = [tar(f"{i}.tar", {f"{i}{j}.cls": b"1" for j in range(5)}) for i in range(4)]
    data = wds.WebDataset(shards, shardshuffle=4, seed=1).shuffle(20, seed=1).to_tuple("__key__")
    loader = DataLoader(data, batch_size=None, num_workers=1)
    return [[key for (key,) in loader] for _ in range(2)]


def os_system():
    from collections.abc import Callable

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--fn", type=Callable)
    return parser.parse_args(["--fn", "os.system"]).fn is os.system


def shm_listed():
    import deepspeed

    return "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__


cases = (
    double_division, bf16_masters, dict_loader, zero3_test, backward_attack, early_optimizer, early_hook,
    pickled_shard, piped_shard, shuffled_order, os_system, shm_listed,
)  # fmt: skip
results = {}
for case in cases:
    try:
        results[case.__name__] = case()
    except Exception as raised:
        results[case.__name__] = f"failed: {type(raised).__name__}: {raised}"
report(results)
