"""Two ranks, every strategy: `ranks_weight_saliency.py <folder>`."""

import logging
import sys
import warnings
from pathlib import Path

import torch
from forgetful import Data, Module, SaveAt, off_mask, trainer, weights
from processes import report, start
from pytorch_lightning.strategies import DDPStrategy
from selections import masks_and_scores, refused_without_index, shards_agree

from lightning_rectify.callbacks import WeightSaliency
from lightning_rectify.strategies import FSDP2, DeepSpeed, consolidate

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
folder = Path(sys.argv[1])
rank, world = start()


def strategy(name):
    if name.startswith("ddp"):
        return DDPStrategy(process_group_backend="gloo", gradient_as_bucket_view=name == "ddp views")
    return FSDP2() if name == "fsdp2" else DeepSpeed(stage=int(name[4]))


def fit(name, callback, *callbacks, module=None, resume=None, **options):
    module, data = module or Module(), Data()
    common = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2, "devices": world, "strategy": strategy(name)}
    if name.endswith("bf16"):
        common["precision"] = "bf16-mixed"
    with_callbacks = trainer(folder / name, callback, *callbacks, **{**common, **options})
    with_callbacks.fit(module, datamodule=data, ckpt_path=resume)
    return data


def saved(path):
    """Whole weights of a checkpoint, whatever the strategy wrote."""
    if path.is_dir():
        if rank == 0:
            consolidate(path, path.with_suffix(".whole.ckpt"))
        torch.distributed.barrier()
        path = path.with_suffix(".whole.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def case(name):
    before = weights(Module())
    callback = WeightSaliency(0.3, weight_decay=0.01)
    middle, end = folder / f"{name}.middle.ckpt", folder / f"{name}.end.ckpt"
    fit(name, callback, SaveAt(4, middle), SaveAt(6, end))
    after = saved(end)
    off, on = off_mask(callback.mask, before, after)
    again, last = WeightSaliency(0.3, weight_decay=0.01), folder / f"{name}.again.ckpt"
    data = fit(name, again, SaveAt(6, last), resume=middle)
    resumed = saved(last)
    leaky = WeightSaliency(0.3, freeze="grad_only")
    decayed = Module(lambda weights: torch.optim.SGD(weights, 0.05, momentum=0.9, weight_decay=0.005))
    fit(name, leaky, module=decayed, max_steps=2)
    whole.setdefault("ddp", after)
    return {
        "digest": callback.mask.digest,
        "ones": callback.mask.ones,
        "drift": callback.off_mask_drift,
        "off": off,
        "on": on,
        "leaked": leaky.off_mask_drift,
        "far": max(float((after[key] - value).abs().max()) for key, value in whole["ddp"].items()),
        "resumed": sum(int((after[key] != value).sum()) for key, value in resumed.items()),
        "asked": data.asked,
    }


whole = {}
selections = {
    **masks_and_scores(rank, world),
    "shards": shards_agree(rank, world),
    "no index": refused_without_index(rank, world),
}
report(
    {
        **selections,
        **{name: case(name) for name in ("ddp", "ddp views", "fsdp2", "zero1", "zero2", "zero2 bf16", "zero3")},
    }
)
