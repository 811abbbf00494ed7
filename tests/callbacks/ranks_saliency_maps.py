"""Two processes: the panel and its maps, and DDP training with and without the callback."""

import sys
import warnings

import torch
from foreign import IMAGES, LABELS, Data, Foreign, trainer
from processes import report

from lightning_rectify.callbacks import ImageBatch, PanelChoice, SaliencyMaps
from lightning_rectify.errors import RectifyError

torch.set_num_threads(1)
two = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}


class Recording(SaliencyMaps):
    def _explain(self, pl_module, panel):
        self.maps, logits = super()._explain(pl_module, panel)
        return self.maps, logits


found = {}
for kind in ("dicts", "tuples"):
    torch.manual_seed(5)
    look = Recording(samples=13)
    run = trainer(f"{sys.argv[1]}/{kind}", look, **two)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.validate(Foreign(), Data(dicts=kind == "dicts"), verbose=False)
    logged = {key: float(value) for key, value in run.callback_metrics.items()}
    found[kind] = {"ids": look.panel.ids, "images": look.panel.images, "logged": logged, **look.maps}
    found[kind]["warnings"] = [str(each.message) for each in caught if "sync_dist" in str(each.message)]

found["losses"] = []
for callbacks in ([], [SaliencyMaps()]):
    torch.manual_seed(5)
    net = Foreign()
    trainer(f"{sys.argv[1]}/fit", *callbacks, **two, accumulate_grad_batches=2).fit(net, Data())
    found["losses"].append(net.losses)
# the second process sees no batch
assert torch.distributed.get_world_size() == 2
choice = PanelChoice(2)
if torch.distributed.get_rank() == 0:
    choice.add(ImageBatch(IMAGES[:4], LABELS[:4]))
try:
    choice.choose(torch.device("cpu"))
except RectifyError as error:
    found["no batch"] = str(error)
report(found)
