"""Two processes attack 301 samples, so one is padding: all, a share, at random starts, in a test, on split weights."""

import sys
import warnings

import torch
from foreign import Data, trainer
from processes import report as hand_in
from robust_cases import report, trained

from lightning_rectify.backbones import ResNet
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.strategies import FSDP2

torch.set_num_threads(1)
net = trained()
found, caught = {}, []
for case, callback in {
    "all": report(),
    "share": report(samples=40),
    "random": report("uniform"),
}.items():
    folder = f"{sys.argv[1]}/{case}"
    run = trainer(folder, callback, devices=2, strategy="ddp", use_distributed_sampler=False)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        run.validate(net, Data(), verbose=False)
    caught += [str(w.message) for w in heard if "sync_dist" in str(w.message)]
    found[case] = {key: float(value) for key, value in run.callback_metrics.items()}
run = trainer(f"{sys.argv[1]}/test", report(test_samples=50), devices=2, strategy="ddp", use_distributed_sampler=False)
run.test(net, Data(), verbose=False)
found["test"] = {key: float(value) for key, value in run.callback_metrics.items()}


class Noting(Classifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


split = []
for callbacks in ([], [report(samples=20)]):
    torch.manual_seed(0)
    module = Noting(ResNet(classes=10, channels=1, depth=8, width=8, norm="group"))
    module.losses = []
    options = {"devices": 2, "strategy": FSDP2(), "use_distributed_sampler": False}
    run = trainer(f"{sys.argv[1]}/split", *callbacks, num_sanity_val_steps=0, **options)
    run.fit(module, Data(train=96, val=(1000, 1031)))
    split.append(module.losses)
logged = {key: float(value) for key, value in run.callback_metrics.items() if "robust" in key}
hand_in({"metrics": found, "warnings": caught, "split": split, "split_logged": logged})
