"""Two processes that split the weights: the maps are those of the whole network."""

import sys
import warnings

import torch
from foreign import Data
from foreign import trainer as make_trainer
from processes import report

from lightning_rectify.attribution import saliency_method
from lightning_rectify.backbones import ResNet
from lightning_rectify.callbacks import SaliencyMaps
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.strategies import FSDP2, DeepSpeed

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
NAMES = ["input_gradient", "smooth_grad", "grad_cam", "norm_grad_selective", "norm_grad_combined"]


class Recording(SaliencyMaps):
    def _explain(self, pl_module, panel):
        self.maps, logits = super()._explain(pl_module, panel)
        return self.maps, logits


def network():
    torch.manual_seed(5)
    return ResNet(10, channels=1, depth=8, width=4, norm="group")


found = {}
for name, strategy in (("fsdp2", FSDP2()), ("zero3", DeepSpeed(stage=3))):
    look = Recording(samples=5, methods=NAMES, aggregate=10)
    module = Classifier(network(), optimizer=lambda weights: torch.optim.SGD(weights, 0.0))  # weights stay
    trainer = make_trainer(
        f"{sys.argv[1]}/{name}", look, devices=2, strategy=strategy, use_distributed_sampler=False, max_epochs=1,
        limit_train_batches=1, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, Data(val=(1000, 1040), batch=16))
    whole, panel = network(), look.panel
    away = {}
    for method in NAMES:
        expected = saliency_method(method).explain(whole, panel.images, panel.labels, "layer3")
        away[method] = float((look.maps[method] - expected).abs().max() / expected.abs().max())
    found[name] = {"away": away, "logged": sorted(map(str, trainer.callback_metrics))}
report(found)
